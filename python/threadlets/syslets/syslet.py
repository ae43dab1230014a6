"""`Syslet`: a program of I/O atoms that the native core runs; `@syslet`: made from a function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, ParamSpec

from threadlets._core import Dispatcher, Program, Result, checkpoint
from threadlets.running import running_dispatcher
from threadlets.syslets.atom import Atom
from threadlets.syslets.explaining import explain
from threadlets.syslets.lowering import lower, lower_atoms
from threadlets.syslets.places import here
from threadlets.syslets.symbols import Parameter
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
    def from_atoms(
        cls,
        atoms: Sequence[Atom],
        *,
        parameters: Sequence[Parameter] = (),
        name: str = "syslet",
    ) -> Syslet[...]:
        """Make a program of atoms in the order of the table; a run gives the value of the last.

        An atom goes on with its neighbour, or as its `then` says; its flags say what stops it
        (`with_flags`), and a variable keeps its value (`into`). `parameters` are what a run is
        given, in order: those that atoms have as operands (`parameter(name)`).

        Raises:
            SysletError: there are none, one goes on where there is none, or nothing ends a loop.
        """
        return Syslet(*lower_atoms(name, atoms, parameters, here()))

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run the program: here as far as nothing blocks, from there on in the engine.

        Cancelling ends the run, and its descriptors are closed; `asyncio.CancelledError` comes once
        nothing of it is under way any more.

        Raises:
            TypeError: an argument is of the wrong kind.
            RuntimeError: the running loop is not threadlets'.
        """
        await checkpoint
        started = self.native.begin(running_loop(), args, kwargs or None)
        if isinstance(started, Result):
            return started
        try:
            return (await started).result()
        except BaseException:
            started.abandon()
            raise

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run the program here and return its result; what blocks, blocks this thread.

        Raises:
            TypeError: an argument is of the wrong kind.
        """
        return self.native.execute(args, kwargs or None)

    def explain(self) -> str:
        """Return the program as text: a line for each atom, with the line it comes from."""
        return explain(self.table, self._notes)

    def __repr__(self) -> str:
        return f"<syslet {self.__name__} of {self._notes.place}>"

    @functools.cached_property
    def native(self) -> Program:
        """The program as the native core runs it."""
        table = self.table
        return Program(
            table.name, table.atoms, table.slots, table.objects, table.parameters, table.outcomes
        )


def syslet(function: Callable[P, Generator[Any, Any, Any]], /) -> Syslet[P]:
    """Make a program of a generator function that yields atoms: it is called once, with symbols.

    The function itself is `__wrapped__`.

    Raises:
        SysletError: the function does what no program can do; the message says where.
    """
    program: Syslet[P] = Syslet(*lower(trace_function(function)))
    functools.update_wrapper(program, function)
    return program


def running_loop() -> Dispatcher:
    """Return the running loop, to which an engine can come back.

    Raises:
        RuntimeError: none runs, or it is not threadlets'.
    """
    return running_dispatcher(
        "to which programs cannot come back; use threadlets.run(main()), or program.run(…), which "
        "needs no loop"
    )
