"""`Syslet`: a program of I/O atoms that the native core runs; `@syslet`: made from a function."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, ParamSpec

from threadlets.syslets.atom import Atom
from threadlets.syslets.explaining import explain
from threadlets.syslets.lowering import lower, lower_atoms
from threadlets.syslets.places import here
from threadlets.syslets.table import Notes, Table
from threadlets.syslets.tracing import trace_function

P = ParamSpec("P")


class Syslet(Generic[P]):
    """A program of I/O atoms: made once, run any number of times, also at the same time.

    `await program(…)` runs it while other tasks go on; `program.run(…)` runs it where it is
    called. Either gives a result, whose `ok` says whether it came to its end, `value` what it
    returned, and `errno` and `atom` what failed, and where. Only misuse raises.
    """

    def __init__(self, table: Table, notes: Notes) -> None:
        self.table = table
        self.__name__ = table.name
        self._notes = notes

    @classmethod
    def from_atoms(cls, atoms: Sequence[Atom], *, name: str = "syslet") -> Syslet[[]]:
        """Make a program of atoms in the order of the table; a run gives the value of the last.

        An atom goes on with its neighbour, or as its `then` says; its flags say what stops it
        (`with_flags`), and a variable keeps its value (`into`).

        Raises:
            SysletError: there are none, one goes on where there is none, or nothing ends a loop.
        """
        return Syslet(*lower_atoms(name, atoms, here()))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the program, and return what is to be awaited for its result."""
        return self._program(*args, **kwargs)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the program here and return its result; the thread waits for what blocks."""
        return self._program.run(*args, **kwargs)

    def explain(self) -> str:
        """Return the program as text: a line for each atom, with the line it comes from."""
        return explain(self.table, self._notes)

    def __repr__(self) -> str:
        return f"<syslet {self.__name__} of {self._notes.place}>"

    @functools.cached_property
    def _program(self) -> Any:
        return _native(self.table)


def syslet(function: Callable[P, Generator[Any, Any, Any]], /) -> Syslet[P]:
    """Make a program of a generator function that yields atoms: it is called once, with symbols.

    The function itself is `__wrapped__`.

    Raises:
        SysletError: the function does what no program can do; the message says where.
    """
    program: Syslet[P] = Syslet(*lower(trace_function(function)))
    functools.update_wrapper(program, function)
    return program


def _native(table: Table) -> Any:
    """Return the native program of a table."""
    core = importlib.import_module("threadlets._core")
    return core.Program(
        table.name, table.atoms, table.slots, table.objects, table.parameters, table.outcomes
    )
