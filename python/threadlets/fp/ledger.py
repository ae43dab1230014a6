"""The record of code that changed the floating-point state: which code, how often, in what way."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import types
from typing import Any


@dataclasses.dataclass(frozen=True)
class Violation:
    """One way in which one piece of code left the floating-point state changed."""

    #: The qualified name of the coroutine, function, or protocol.
    name: str
    #: Where it is: "file:line", of a coroutine the place where it is suspended; "?" if unknown.
    where: str
    #: What was changed, in words: "rounding upward, flush-to-zero".
    changes: str
    #: How often.
    count: int


_counts: dict[tuple[str, str], tuple[str, int]] = {}


def report() -> dict[str, list[Violation]]:
    """List the violations in this process so far, by the qualified name of the code.

    Each name has an entry for every way in which it changed the state, with the latest place.
    """
    found: dict[str, list[Violation]] = {}
    for (name, changes), (where, count) in _counts.items():
        found.setdefault(name, []).append(Violation(name, where, changes, count))
    return found


def record(subject: Any, changes: str) -> Violation:
    """Count a violation by `subject`: a callable, a protocol, or None for a request of the loop."""
    name, where = name_of(subject)
    _, count = _counts.get((name, changes), ("", 0))
    _counts[name, changes] = (where, count + 1)
    return Violation(name, where, changes, count + 1)


def task_of(subject: Any) -> asyncio.Task[Any] | None:
    """Return the task whose step a callable is; None if it is no step."""
    owner = getattr(subject, "__self__", subject)
    return owner if isinstance(owner, asyncio.Task) else None


def name_of(subject: Any) -> tuple[str, str]:
    """Return name and place of a callable, a protocol, or a loop's request (its name, or None)."""
    if subject is None or isinstance(subject, str):
        return subject or "a request of the loop", "?"
    task = task_of(subject)
    if task is not None:
        return _name_of_coroutine(task.get_coro())
    if isinstance(subject, functools.partial):
        return name_of(subject.func)
    owner = getattr(subject, "__self__", None)
    if isinstance(owner, types.MethodType | types.FunctionType):
        return name_of(owner)
    code = getattr(getattr(subject, "__func__", subject), "__code__", None)
    name = getattr(subject, "__qualname__", None)
    if name is None:
        # A protocol, or another object that is called by its methods.
        return type(subject).__qualname__, _where_of_class(type(subject))
    if code is None:
        module = getattr(subject, "__module__", None)
        return (f"{module}.{name}" if module else name), "?"
    return name, f"{code.co_filename}:{code.co_firstlineno}"


def _name_of_coroutine(coroutine: Any) -> tuple[str, str]:
    """Return a coroutine's name, and the place where it, or what it awaits, is suspended."""
    name = getattr(coroutine, "__qualname__", None) or repr(coroutine)
    where = "?"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        if frame is not None:
            where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        elif code is not None:
            where = f"{code.co_filename}:{code.co_firstlineno}"
        awaited = getattr(coroutine, "cr_await", None)
        coroutine = awaited if awaited is not None else getattr(coroutine, "gi_yieldfrom", None)
    return name, where


def _where_of_class(found: type) -> str:
    for value in vars(found).values():
        if isinstance(value, types.FunctionType):
            return f"{value.__code__.co_filename}:{value.__code__.co_firstlineno}"
    return "?"
