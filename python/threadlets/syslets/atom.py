"""`Atom`: one operation as an inert value, with its operands and what is to happen around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import EllipsisType
from typing import TYPE_CHECKING

from threadlets.syslets.operations import Flow, Operation
from threadlets.syslets.places import Place, here

if TYPE_CHECKING:
    from threadlets.syslets.symbols import Variable


@dataclass(frozen=True, eq=False)
class Atom:
    """One I/O operation, to be yielded by a syslet; it does nothing by itself and never changes.

    A failure ends the program, and its result names the atom and the error, unless the atom is
    `unchecked()`. Every method returns another atom.
    """

    operation: Operation
    operands: tuple[object, ...]
    place: Place
    """Where it was made."""
    flags: Flow
    result: Variable | None = None
    next: int | EllipsisType | None = ...
    """Its successor in a list of atoms; Ellipsis: the adjacent one."""

    def unchecked(self) -> Atom:
        """Let the program go on after a failure: the atom's value is then the negative errno."""
        return replace(self, flags=self.flags & ~Flow.STOP_ON_NEGATIVE)

    def asynchronous(self) -> Atom:
        """Queue the operation at once, without trying whether it can be done without waiting."""
        return replace(self, flags=self.flags & ~Flow.SYNC | Flow.ASYNC)

    def synchronous(self) -> Atom:
        """Never queue the operation: the executor waits for it where it stands, even if it blocks."""
        return replace(self, flags=self.flags & ~Flow.ASYNC | Flow.SYNC)

    def no_complete(self) -> Atom:
        """Leave no entry in the completion ring when the operation is done."""
        return replace(self, flags=self.flags | Flow.NO_COMPLETE)

    def into(self, variable: Variable) -> Atom:
        """Store the atom's value in `variable`, too, which the whole program can read.

        Raises:
            SysletTypeError: `variable` is none.
        """
        from threadlets.syslets.symbols import Variable

        if not isinstance(variable, Variable):
            raise here().type_refusal(
                f"{variable!r} is no variable: into() stores in what counter() returned"
            )
        return replace(self, result=variable)

    def then(self, index: int | None) -> Atom:
        """Go on with the atom at `index` of the list, or end the program after this one (None).

        For `Syslet.from_atoms` only, where an atom is otherwise followed by its neighbour.
        """
        return replace(self, next=index)

    def with_flags(self, flags: Flow) -> Atom:
        """Replace all flags, the check for failures included.

        For `Syslet.from_atoms`; in a traced syslet, conditions belong to `when`, `stop_if` and
        `break_if`.
        """
        return replace(self, flags=Flow(flags))

    def __repr__(self) -> str:
        return f"<atom {self.operation.name} made at {self.place}>"
