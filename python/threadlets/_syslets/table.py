"""`Table`: a program as the native core takes it; `DebugInfo`: what only messages and checks need."""

from __future__ import annotations

from dataclasses import dataclass

from threadlets._syslets.locations import Location

ABSENT = -1
"""In the table: no result, no next atom, no operand."""


@dataclass(frozen=True)
class Row:
    """An atom in the table; everything but the operation's name and the flags is an index."""

    op: str
    operands: tuple[int, ...]
    result: int
    next: int
    flags: int
    outcome: int


@dataclass(frozen=True)
class Table:
    """A program: the arguments of the native `Program`, by their names.

    `atoms` are (operation, operands, result, next, flags, outcome). A run begins with the first; a
    stop with SKIP_TO_NEXT_ON_STOP continues with the one that follows in the list.
    """

    name: str
    atoms: list[tuple[str, tuple[int, ...], int, int, int, int]]
    slots: list[int]
    objects: list[tuple[object, ...]]
    parameters: list[tuple[str, str, int, object]]
    outcomes: list[tuple[object, ...]]

    def rows(self) -> list[Row]:
        """Return the atoms with names for their columns."""
        return [Row(*atom) for atom in self.atoms]


@dataclass(frozen=True)
class DebugInfo:
    """What belongs to a table besides: where its atoms were written, and the names of its storage."""

    location: Location
    """Where the program as a whole was written."""
    locations: list[Location]
    """Where each atom was written."""
    endings: list[Location]
    """For each atom, where the value of a run that ends there was written."""
    slots: list[str]
    objects: list[str]
    initial: frozenset[int]
    """Slots that have a value when a run begins."""
