"""Reports of what is outstanding when a loop is closed."""

from __future__ import annotations

import contextlib
import itertools
import sys
import warnings
from collections.abc import Collection, Iterator
from typing import Any, Literal

from threadlets._introspection import safe_repr
from threadlets._scopes.outstanding import Ledger, describe_requests, ledger_of
from threadlets.exceptions import LeakError

#: Set in tests: every loop that leaks raises.
_are_errors = False

#: What closing a loop does about what is outstanding: reports it, or raises an error.
LeakPolicy = Literal["warn", "raise"]


@contextlib.contextmanager
def leaks_are_errors() -> Iterator[list[str]]:
    """Make every loop that is closed in the block raise the leaks that it otherwise reports.

    Yield the list of leaks that were not raised because another exception was being raised.
    """
    global _are_errors
    before, _are_errors = _are_errors, True
    not_raised.clear()
    try:
        yield not_raised
    finally:
        _are_errors = before


not_raised: list[str] = []


def describe_leaks(loop: Any, open_transports: Collection[Any]) -> str:
    """Name what a loop has outstanding that has to end; empty if nothing.

    Blocked functions have a warning of their own, with their stacks. Memory on loan belongs to the
    buffer pool, which knows no loops. A program that is no longer awaited is about to end.
    Descriptors count if they are those of `open_transports`; those of `add_reader` and `add_writer`
    belong to the program.
    """
    now = ledger_of(loop)
    left = Ledger(
        tasks=now.tasks,
        calls=now.calls,
        syslets=now.syslets,
        waits=now.waits,
        descriptors=len(open_transports),
    )
    if not left:
        return ""
    described = str(left)
    if requests := loop._requests():
        described += f": {describe_requests(requests)}"
    if open_transports:
        named = map(safe_repr, itertools.islice(open_transports, 10))
        described += f"; open: {', '.join(named)}"
    return described


def report_leak(loop: Any, left: str, policy: LeakPolicy) -> None:
    """Report what a closed loop had outstanding, or raise it on request.

    Raises:
        LeakError: in tests, and if `policy` is "raise"; but never in the place of another exception
            that is being raised.
    """
    message = (
        f"{loop!r} was closed with something outstanding: {left}. Await or cancel requests, and "
        "close connections and servers, before you close the loop; debug mode says where tasks were "
        "started"
    )
    if policy == "raise" or _are_errors:
        if sys.exception() is None:
            raise LeakError(message)
        if _are_errors:
            not_raised.append(message)
    report(loop, message, stacklevel=4)


def report(loop: Any, message: str, stacklevel: int = 3) -> None:
    """Warn of what is wrong with a closed loop; never raise.

    Where a filter makes the warning an error, the loop's exception handler gets the message instead:
    asyncio's own warnings of this kind come from finalizers, from which no exception propagates.
    """
    try:
        warnings.warn(message, ResourceWarning, stacklevel=stacklevel, source=loop)
    except Exception:
        loop.call_exception_handler({"message": message})
