"""`Syslet`: a program of I/O atoms that the native core runs; `@syslet` makes it from a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, ParamSpec

from threadlets._arguments import wrong_type
from threadlets._core import Dispatcher, Program, Result, checkpoint
from threadlets._public import set_module
from threadlets._running import running_dispatcher
from threadlets._syslets.atom import Atom
from threadlets._syslets.explaining import explain
from threadlets._syslets.locations import user_location
from threadlets._syslets.lowering import lower, lower_atoms
from threadlets._syslets.symbols import Parameter
from threadlets._syslets.table import DebugInfo, Table
from threadlets._syslets.tracing import trace_function

P = ParamSpec("P")


@set_module("threadlets")
class Syslet(Generic[P]):
    """A program of I/O atoms: made once, run any number of times, also concurrently.

    `await program(…)` runs it while other tasks run; `program.run(…)` runs it in the calling thread.
    Both return a result: `ok` tells whether no atom failed, `value` is what the program returned,
    and `errno` and `atom` tell what failed and where. Only misuse raises.
    """

    def __init__(self, table: Table, debug_info: DebugInfo) -> None:
        self.table = table
        self.__name__ = table.name
        self._debug_info = debug_info

    @classmethod
    def from_atoms(
        cls,
        atoms: Sequence[Atom],
        *,
        parameters: Sequence[Parameter] = (),
        name: str = "syslet",
    ) -> Syslet[...]:
        """Make a program from atoms in the order of the table; a run returns its last atom's value.

        The adjacent atom follows an atom, unless its `then` names another; its flags say what stops
        it (`with_flags`), and `into` stores its value in a variable. `parameters` are the arguments
        of a run, in order: those that atoms have as operands (`parameter(name)`).

        Raises:
            SysletError: the list is empty, an atom's successor does not exist, or a loop cannot end.
        """
        return Syslet(*lower_atoms(name, atoms, parameters, user_location()))

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run the program: inline as far as nothing blocks, from there on in the engine.

        Cancelling ends the run and closes its descriptors; `asyncio.CancelledError` is raised once
        nothing of the run is in flight any more.

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
        """Run the program in this thread, which may block, and return its result.

        Raises:
            TypeError: an argument is of the wrong kind.
        """
        return self.native.execute(args, kwargs or None)

    def explain(self) -> str:
        """Return the program as text: a line for each atom, with the line it comes from."""
        return explain(self.table, self._debug_info)

    def __repr__(self) -> str:
        return f"<syslet {self.__name__} of {self._debug_info.location}>"

    @functools.cached_property
    def native(self) -> Program:
        """The program as the native core runs it."""
        table = self.table
        return Program(
            table.name, table.atoms, table.slots, table.objects, table.parameters, table.outcomes
        )


@set_module("threadlets")
def syslet(function: Callable[P, Generator[Any, Any, Any]], /) -> Syslet[P]:
    """Make a program from a generator function that yields atoms: it is called once, with symbols.

    `__wrapped__` is the function itself.

    Raises:
        SysletError: the function does what no program can do; the message says where.
        TypeError: it is no function of Python.
    """
    if not inspect.isfunction(function):
        raise wrong_type(
            "function",
            function,
            "a generator function that yields atoms",
            "write it with def and yield",
        )
    program: Syslet[P] = Syslet(*lower(trace_function(function)))
    functools.update_wrapper(program, function)
    return program


def native_of(program: Any) -> Program:
    """Return a program as the native core runs it.

    Raises:
        TypeError: it is no `Syslet`.
    """
    try:
        native: Program = program.native
    except AttributeError:
        if isinstance(program, Syslet):
            raise
        remedy = "make one with @threadlets.syslet; plain functions are for threadlets.call"
        raise wrong_type("program", program, "a syslet", remedy) from None
    return native


def running_loop() -> Dispatcher:
    """Return the running loop, to which an engine can deliver results.

    Raises:
        RuntimeError: no loop runs in this thread, or it is not threadlets'.
    """
    return running_dispatcher(
        "which cannot await programs; use threadlets.run(main()), or program.run(…), which needs "
        "no loop",
        remedy="await it within threadlets.run(main()), or use program.run(…), which needs no loop",
    )
