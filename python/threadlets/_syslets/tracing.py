"""Tracing: a syslet's function is called once, with symbols, to record what it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from threadlets._syslets import statements
from threadlets._syslets.atom import Atom
from threadlets._syslets.locations import Location, location_of
from threadlets._syslets.operations import BRANCHES, Flow
from threadlets._syslets.symbols import Length, Parameter, name_symbols, symbol_for
from threadlets._syslets.traced_source import check_source


@dataclass(frozen=True)
class TracedFunction:
    """What a function did: its statements, and the symbolic value that it returned."""

    name: str
    location: Location
    parameters: list[Parameter]
    trace: statements.Trace
    value: object
    value_location: Location


def trace_function(function: Callable[..., Any]) -> TracedFunction:
    """Call a generator function with symbols, and return what it did.

    Raises:
        SysletError: the function did what no syslet can do.
    """
    code = function.__code__
    location = Location(code.co_filename, code.co_firstlineno)
    if not inspect.isgeneratorfunction(function):
        raise location.type_error(
            f"{function.__qualname__}() yields nothing: a syslet is a generator function that "
            "yields atoms"
        )
    check_source(function)
    with statements.recording() as recorder:
        parameters = _parameters(function, location)
        generator = function(*parameters)
        value, value_location = _exhaust(generator, recorder)
    return TracedFunction(function.__name__, location, parameters, recorder, value, value_location)


def _parameters(function: Callable[..., Any], location: Location) -> list[Parameter]:
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise location.error(
                f"the parameter {parameter.name} is {parameter.kind.description}: a syslet has "
                "plain ones only"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        # An annotation is a string if its evaluation is postponed.
        is_int = parameter.annotation in (int, "int")
        symbol = Parameter(parameter.name, default, is_int=is_int)
        symbol.location = location
        parameters.append(symbol)
    return parameters


def _exhaust(
    generator: Generator[Any, Any, Any], recorder: statements.Trace
) -> tuple[object, Location]:
    # Kept for the line of the return, which the frame still has after the generator has ended.
    frame = _innermost(generator)
    value: object = None
    try:
        while True:
            atom = generator.send(value)
            innermost = _innermost(generator)
            name_symbols(innermost)
            value = _record(atom, location_of(innermost), recorder)
    except StopIteration as ending:
        return ending.value, location_of(frame)
    finally:
        generator.close()


def _record(atom: object, location: Location, recorder: statements.Trace) -> object:
    if not isinstance(atom, Atom):
        raise location.type_error(
            f"{atom!r} was yielded, which is no atom: yield what threadlets.atoms gives, and "
            "delegate to other generators with `yield from`"
        )
    check = Flow.STOP_ON_NEGATIVE if atom.operation.is_io else Flow(0)
    if atom.next is not ... or atom.flags & BRANCHES & ~check:
        raise location.error(
            f"{atom.operation.name} has a successor or a condition of its own: in a traced "
            "syslet, write loop, when, break_if or stop_if (then and with_flags are for "
            "Syslet.from_atoms)"
        )
    value = symbol_for(atom)
    if value is not atom.result:
        value.location = location
    recorder.record(statements.AtomStatement(atom, value, location))
    if isinstance(value, Length):
        value.data.location = location
        return value.data
    return value


def _innermost(generator: Any) -> FrameType:
    while inspect.isgenerator(generator.gi_yieldfrom):
        generator = generator.gi_yieldfrom
    frame: FrameType = generator.gi_frame
    return frame
