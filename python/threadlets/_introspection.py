"""Descriptions of running code for messages: names, lines, tasks, threads and stacks.

Knows neither loops nor the native core.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

from threadlets._public import set_module


@set_module("threadlets")
@dataclasses.dataclass(frozen=True)
class BlockedFunction:
    """A function that blocks its thread; it cannot be stopped."""

    name: str
    """Its qualified name."""
    thread: str
    """The name of the thread that it blocks."""
    seconds: float
    """How long it has been blocked."""
    stack: str
    """Its stack, innermost frame last; empty if it has just returned."""

    def __str__(self) -> str:
        return f"{self.name} for {self.seconds:.1f} s, in thread {self.thread!r}:\n{self.stack}"


# -- threads ---------------------------------------------------------------------------------------


def thread_name(ident: int | None) -> str:
    """Return the name of the thread with an identity; "?" once it is gone."""
    return next((it.name for it in threading.enumerate() if it.ident == ident), "?")


def format_stack(ident: int | None) -> str:
    """Return a thread's stack, innermost frame last; empty if there is no such thread."""
    frame = sys._current_frames().get(ident) if ident is not None else None
    return "" if frame is None else "".join(traceback.format_stack(frame)).rstrip()


def format_thread(ident: int | None) -> str:
    """Return a thread's name and its stack, innermost frame last; "?" if there is no such thread."""
    stack = format_stack(ident)
    return f"  Thread {thread_name(ident)!r}:\n{stack}" if stack else "  ?"


# -- code ------------------------------------------------------------------------------------------


def describe_frame(frame: types.FrameType) -> str:
    """Name the code of a frame and its current line: "function (file:line)"."""
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"


def function_name(function: Callable[..., Any]) -> str:
    """Return the qualified name of a callable, or its repr if it has none."""
    return getattr(function, "__qualname__", None) or safe_repr(function)


def safe_repr(thing: object) -> str:
    """Return the repr of an object, or a substitute if that raises, since reports must not fail."""
    try:
        return repr(thing)
    except Exception as exc:
        return f"<{type(thing).__name__}, whose repr raised {type(exc).__name__}>"


def task_of(subject: Any) -> asyncio.Task[Any] | None:
    """Return the task whose step a callable is; None if it is no step."""
    owner = getattr(subject, "__self__", subject)
    return owner if isinstance(owner, asyncio.Task) else None


def locate(subject: Any) -> tuple[str, str]:
    """Return the name of what a request runs, and where it is: "file:line", or "?" if unknown.

    `subject` is a callable, a protocol, or a request of the loop: its name, or None.
    """
    if subject is None or isinstance(subject, str):
        return subject or "a request of the loop", "?"
    task = task_of(subject)
    if task is not None:
        return _locate_coroutine(task.get_coro())
    if isinstance(subject, functools.partial):
        return locate(subject.func)
    owner = getattr(subject, "__self__", None)
    if isinstance(owner, types.MethodType | types.FunctionType):
        return locate(owner)
    code = getattr(getattr(subject, "__func__", subject), "__code__", None)
    name = getattr(subject, "__qualname__", None)
    if name is None:
        # A protocol, or another object that is called by its methods.
        return type(subject).__qualname__, _locate_class(type(subject))
    if code is None:
        module = getattr(subject, "__module__", None)
        return (f"{module}.{name}" if module else name), "?"
    return name, f"{code.co_filename}:{code.co_firstlineno}"


def _locate_coroutine(coroutine: Any) -> tuple[str, str]:
    """Return a coroutine's name, and the line where it, or what it awaits, is suspended."""
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


def _locate_class(found: type) -> str:
    for value in vars(found).values():
        if isinstance(value, types.FunctionType):
            return f"{value.__code__.co_filename}:{value.__code__.co_firstlineno}"
    return "?"
