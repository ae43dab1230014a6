"""Statements that a syslet's function made when it was called with symbols; `Trace` nests them.

Knows nothing of tables.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from threadlets._syslets.atom import Atom
from threadlets._syslets.locations import Location, user_location

if TYPE_CHECKING:
    from threadlets._syslets.symbols import Condition, Integer


@dataclass(frozen=True, eq=False)
class AtomStatement:
    """Run an atom; `value` is the symbol of its value."""

    atom: Atom
    value: Integer
    location: Location


@dataclass(eq=False)
class Loop:
    """Statements that repeat until a `BreakIf` among them leaves the loop."""

    location: Location
    body: list[Statement] = field(default_factory=list)


@dataclass(eq=False)
class When:
    """Statements for when a condition holds, and for when it does not."""

    condition: Condition
    location: Location
    body: list[Statement] = field(default_factory=list)
    otherwise: list[Statement] | None = None


@dataclass(frozen=True, eq=False)
class BreakIf:
    """Leave `loop` if the condition holds."""

    condition: Condition
    loop: Loop
    location: Location


@dataclass(frozen=True, eq=False)
class StopIf:
    """End the program with `value` if the condition holds."""

    condition: Condition
    value: object
    location: Location


Statement: TypeAlias = AtomStatement | Loop | When | BreakIf | StopIf


class Trace:
    """The statements traced so far, and the blocks that are open."""

    def __init__(self) -> None:
        self.statements: list[Statement] = []
        self._blocks = [self.statements]
        self._loops: list[Loop] = []

    def record(self, statement: Statement) -> None:
        """Append a statement to the innermost block."""
        self._blocks[-1].append(statement)

    def last(self) -> Statement | None:
        """Return the last statement of the innermost block."""
        return self._blocks[-1][-1] if self._blocks[-1] else None

    def innermost_loop(self) -> Loop | None:
        """Return the loop that `break_if` leaves here."""
        return self._loops[-1] if self._loops else None

    def open(self, block: list[Statement], loop: Loop | None = None) -> None:
        """Record in `block` from now on, as the body of `loop` if it is one."""
        self._blocks.append(block)
        if loop is not None:
            self._loops.append(loop)

    def close(self, loop: Loop | None = None) -> None:
        """Continue with the enclosing block."""
        self._blocks.pop()
        if loop is not None:
            self._loops.pop()


class _Active(threading.local):
    trace: Trace | None = None


_active = _Active()


def current_trace() -> Trace | None:
    """Return the trace that is being made in this thread, if there is one."""
    return _active.trace


def require_trace(what: str) -> Trace:
    """Return the trace that is being made.

    Raises:
        SysletError: there is none: `what` was used outside of a syslet's function.
    """
    if _active.trace is None:
        raise user_location().error(
            f"{what} belongs in the function of a syslet: decorate it with @syslet"
        )
    return _active.trace


class recording:  # noqa: N801 - a context manager that is used like a function
    """Make a new trace the current one of this thread, and restore the previous one afterwards."""

    def __enter__(self) -> Trace:
        self._previous = _active.trace
        _active.trace = trace = Trace()
        return trace

    def __exit__(self, *_exception: object) -> None:
        _active.trace = self._previous
