"""Tracing: a syslet's function is called once, with symbols, to record what it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from threadlets._syslets import trace
from threadlets._syslets.atom import Atom
from threadlets._syslets.operations import BRANCHES, Flow
from threadlets._syslets.places import Place, place_of
from threadlets._syslets.symbols import Parameter, name_symbols, value_of
from threadlets._syslets.traced_source import check_source


@dataclass(frozen=True)
class Traced:
    """What a function did: its statements, and the symbolic value that it returned."""

    name: str
    place: Place
    parameters: list[Parameter]
    trace: trace.Trace
    value: object
    value_place: Place


def trace_function(function: Callable[..., Any]) -> Traced:
    """Call a generator function with symbols, and return what it did.

    Raises:
        SysletError: the function did what no syslet can do.
    """
    code = function.__code__
    place = Place(code.co_filename, code.co_firstlineno)
    if not inspect.isgeneratorfunction(function):
        raise place.type_refusal(
            f"{function.__qualname__}() yields nothing: a syslet is a generator function that "
            "yields atoms"
        )
    check_source(function)
    with trace.tracing() as recorder:
        parameters = _parameters(function, place)
        generator = function(*parameters)
        value, value_place = _exhaust(generator, recorder)
    return Traced(function.__name__, place, parameters, recorder, value, value_place)


def _parameters(function: Callable[..., Any], place: Place) -> list[Parameter]:
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise place.refusal(
                f"the parameter {parameter.name} is {parameter.kind.description}: a syslet has "
                "plain ones only"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        symbol = Parameter(parameter.name, default)
        symbol.place = place
        parameters.append(symbol)
    return parameters


def _exhaust(generator: Generator[Any, Any, Any], recorder: trace.Trace) -> tuple[object, Place]:
    # Kept for the line of the return, which the frame still has after the generator has ended.
    frame = _innermost(generator)
    value: object = None
    try:
        while True:
            atom = generator.send(value)
            innermost = _innermost(generator)
            name_symbols(innermost)
            value = _record(atom, place_of(innermost), recorder)
    except StopIteration as ending:
        return ending.value, place_of(frame)
    finally:
        generator.close()


def _record(atom: object, place: Place, recorder: trace.Trace) -> object:
    if not isinstance(atom, Atom):
        raise place.type_refusal(
            f"{atom!r} was yielded, which is no atom: yield what threadlets.atoms gives, and "
            "delegate to other generators with `yield from`"
        )
    check = Flow.STOP_ON_NEGATIVE if atom.operation.is_io else Flow(0)
    if atom.next is not ... or atom.flags & BRANCHES & ~check:
        raise place.refusal(
            f"{atom.operation.name} has a successor or a condition of its own: in a traced "
            "syslet, write loop, when, break_if or stop_if (then and with_flags are for "
            "Syslet.from_atoms)"
        )
    value = value_of(atom)
    if value is not atom.result:
        value.place = place
    recorder.record(trace.Step(atom, value, place))
    return value


def _innermost(generator: Any) -> FrameType:
    while inspect.isgenerator(generator.gi_yieldfrom):
        generator = generator.gi_yieldfrom
    frame: FrameType = generator.gi_frame
    return frame
