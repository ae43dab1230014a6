"""`Table`: a program as the native core takes it, and `Notes`: what only people and checks need."""

from __future__ import annotations

from dataclasses import dataclass

from threadlets.syslets.places import Place

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

    `atoms` are (operation, operands, result, next, flags, outcome), in the order in which a stop
    with SKIP_TO_NEXT_ON_STOP goes through them; the first is where a run begins.
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
class Notes:
    """What is known of a table besides: where each atom was written, what its storage is called."""

    place: Place
    """Where the program as a whole was written."""
    places: list[Place]
    """Of each atom."""
    endings: list[Place]
    """Of each atom, where what a run gives was written."""
    slots: list[str]
    objects: list[str]
    initial: frozenset[int]
    """Slots that have a value when a run begins."""
