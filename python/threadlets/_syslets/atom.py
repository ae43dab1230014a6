"""`Atom`: one operation with its operands and flags, as an immutable value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import EllipsisType
from typing import TYPE_CHECKING

from threadlets._syslets.locations import Location, user_location
from threadlets._syslets.operations import Flow, Operation

if TYPE_CHECKING:
    from threadlets._syslets.symbols import Integer, Variable


class Assignable:
    """Base class of what an atom's value can be stored in; `symbols` has its one subclass."""


@dataclass(frozen=True, eq=False)
class Size:
    """An operand in place of memory: as many bytes at most, in memory that the program provides."""

    size: Integer | int


@dataclass(frozen=True, eq=False)
class Atom:
    """One I/O operation, to be yielded by a syslet; it does nothing by itself and never changes.

    A failure ends the program, and the result names the atom and the error, unless the atom is
    `unchecked()`. Every method returns a new atom.
    """

    operation: Operation
    operands: tuple[object, ...]
    location: Location
    """The line that made the atom."""
    flags: Flow
    result: Variable | None = None
    next: int | EllipsisType | None = ...
    """Index of the next atom in a list of atoms; Ellipsis: the adjacent atom; None: the end."""

    @property
    def size(self) -> Integer | int | None:
        """The most bytes to read, for an atom whose value is the bytes that it reads."""
        return next((it.size for it in self.operands if isinstance(it, Size)), None)

    def unchecked(self) -> Atom:
        """Continue the program after a failure: the atom's value is then the negative errno.

        If the value is bytes, it is then empty, and its `length` is the negative errno.
        """
        return replace(self, flags=self.flags & ~Flow.STOP_ON_NEGATIVE)

    def asynchronous(self) -> Atom:
        """Queue the operation at once, without a non-blocking attempt before."""
        return replace(self, flags=self.flags & ~Flow.SYNC | Flow.ASYNC)

    def synchronous(self) -> Atom:
        """Never queue the operation: the thread that runs the program performs it, and may block."""
        return replace(self, flags=self.flags & ~Flow.ASYNC | Flow.SYNC)

    def no_complete(self) -> Atom:
        """Make no entry in the completion ring when the program ends at this atom."""
        return replace(self, flags=self.flags | Flow.NO_COMPLETE)

    def into(self, variable: Variable) -> Atom:
        """Store the atom's value in `variable`, too, which the whole program can read.

        Raises:
            SysletTypeError: `variable` is not a variable, or the atom's value is bytes.
        """
        if self.size is not None:
            raise user_location().type_error(
                f"the value of this {self.operation.name} is bytes, and a variable is an integer: "
                "store their `length`, as in `yield assign(variable, data.length)`"
            )
        if not isinstance(variable, Assignable):
            raise user_location().type_error(
                f"{variable!r} is no variable: into() stores in a variable that counter() returned"
            )
        return replace(self, result=variable)

    def then(self, index: int | None) -> Atom:
        """Continue with the atom at `index` of the list, or end the program after this atom (None).

        For `Syslet.from_atoms` only, where the adjacent atom follows otherwise.
        """
        return replace(self, next=index)

    def with_flags(self, flags: Flow) -> Atom:
        """Replace all flags, including the check for failures.

        For `Syslet.from_atoms`; a traced syslet uses `when`, `stop_if` and `break_if` for conditions.
        """
        return replace(self, flags=Flow(flags))

    def __repr__(self) -> str:
        return f"<atom {self.operation.name} made at {self.location}>"
