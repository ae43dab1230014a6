"""What a loop leaves behind when it is closed."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from threadlets._core import Dispatcher
from threadlets.exceptions import LeakError
from threadlets.scopes.ledger import Ledger, describe_requests, ledger_of

#: In tests, a leak is an error in every mode.
_are_errors = False


@contextlib.contextmanager
def leaks_are_errors() -> Iterator[None]:
    """Have every loop that is closed meanwhile raise what it otherwise warns of."""
    global _are_errors
    before, _are_errors = _are_errors, True
    try:
        yield
    finally:
        _are_errors = before


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
        described += f"; open: {', '.join(map(repr, transports[:10]))}"
    return described


def report_leak(loop: Dispatcher, left: str) -> None:
    """Warn of what a closed loop had outstanding, or raise it.

    Raises:
        LeakError: in debug mode, and in tests.
    """
    message = (
        f"{loop!r} was closed with something outstanding: {left}. Await or cancel requests, and close "
        "connections and servers, before the loop; debug mode says where tasks were started"
    )
    if loop._debug or _are_errors:
        raise LeakError(message)
    warnings.warn(message, ResourceWarning, stacklevel=3, source=loop)
