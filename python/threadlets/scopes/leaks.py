"""What a loop leaves behind when it is closed."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Literal

from threadlets.exceptions import LeakError
from threadlets.scopes.ledger import Ledger, describe_requests, ledger_of, repr_of

#: In tests, a leak is an error of every loop.
_are_errors = False

#: What closing a loop does about what is left: reports it, or raises it.
LeakPolicy = Literal["warn", "raise"]


@contextlib.contextmanager
def leaks_are_errors() -> Iterator[list[str]]:
    """Have every loop that is closed meanwhile raise what it otherwise reports.

    The block is given the list of those that could not be raised: another exception was on its way.
    """
    global _are_errors
    before, _are_errors = _are_errors, True
    not_raised.clear()
    try:
        yield not_raised
    finally:
        _are_errors = before


not_raised: list[str] = []


def describe_what_is_left(loop: Any) -> str:
    """Name what a loop has outstanding that has to come to an end; empty: nothing.

    Functions that are blocked have a warning of their own, with their stacks. Memory on loan is the
    pool's, which knows no loops. A program that nobody awaits any more is about to end. Descriptors
    count that the loop owns and nobody has closed: readers and writers of the user's are his.
    """
    transports = [
        transport
        for transport in [*loop._socket_transports.values(), *loop._transports.values()]
        if not transport.is_closing()
    ]
    now = ledger_of(loop)
    left = Ledger(
        tasks=now.tasks,
        calls=now.calls,
        syslets=now.syslets,
        waits=now.waits,
        descriptors=len(transports),
    )
    if not left:
        return ""
    described = str(left)
    if requests := loop._requests():
        described += f": {describe_requests(requests)}"
    if transports:
        described += f"; open: {', '.join(map(repr_of, transports[:10]))}"
    return described


def report_leak(loop: Any, left: str) -> None:
    """Report what a closed loop had outstanding, or raise it where the user asked for that.

    Raises:
        LeakError: in tests, and of a loop that was made with `leaks="raise"`; but it does not take the
            place of an exception that is on its way.
    """
    message = (
        f"{loop!r} was closed with something outstanding: {left}. Await or cancel requests, and close "
        "connections and servers, before the loop; debug mode says where tasks were started"
    )
    if loop._leak_policy == "raise" or _are_errors:
        if sys.exception() is None:
            raise LeakError(message)
        if _are_errors:
            not_raised.append(message)
    report(loop, message, stacklevel=4)


def report(loop: Any, message: str, stacklevel: int = 3) -> None:
    """Warn of what is wrong with a loop that is closed; never raise.

    In debug mode, and where warnings are errors, its exception handler is told instead: asyncio's own
    such warnings come from finalizers, which nothing escapes from.
    """
    if not loop._debug:
        try:
            warnings.warn(message, ResourceWarning, stacklevel=stacklevel, source=loop)
        except Exception:
            pass
        else:
            return
    loop.call_exception_handler({"message": message})
