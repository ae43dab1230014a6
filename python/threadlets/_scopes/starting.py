"""What a scope can start: anything that can be awaited, and functions."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from contextvars import Context
from types import CoroutineType
from typing import Any

from threadlets import _core
from threadlets._calls import call_or_discard
from threadlets._syslets.program import Syslet


def start(
    members: _core.Members, what: Any, args: Any, kwargs: Any, context: Context | None
) -> Any:
    """Start `what` as a member; a function, coroutine function or program gets the arguments.

    It runs in `context`, or in a copy of the current one if that is None.
    """
    has_arguments = bool(args or kwargs)
    if type(what) is CoroutineType and not has_arguments:
        return members.start_task(what, "task", context)
    if type(what) in (_core.Future, _core.Sleep):
        _refuse_arguments(what, has_arguments or context is not None)
        members.start_wait(what)
        return what
    if isinstance(what, _core.Call):
        _refuse_arguments(what, has_arguments)
        return members.start_task(what, "call", context)
    if asyncio.iscoroutine(what):
        _refuse_arguments(what, has_arguments)
        return members.start_task(what, "task", context)
    if isinstance(what, Syslet):
        return members.start_task(what(*args, **kwargs), "syslet", context)
    if inspect.iscoroutinefunction(what):
        return members.start_task(what(*args, **kwargs), "task", context)
    if callable(what):
        return members.start_task(_called(what, args, kwargs), "call", context)
    if isinstance(what, Awaitable):
        _refuse_arguments(what, has_arguments)
        return members.start_task(_awaited(what), "task", context)
    raise TypeError(
        f"a scope starts coroutines, functions, programs and awaitables; {what!r} is none of them"
    )


def _called(function: Any, args: Any, kwargs: Any) -> Any:
    if hasattr(function, "__wrapped__"):
        # A function that `threadlet` has wrapped returns a `Call`, which knows its pool.
        return _wrapped(function, args, kwargs)
    return _core.call(function, *args, **kwargs)


async def _wrapped(function: Any, args: Any, kwargs: Any) -> Any:
    outcome = await call_or_discard(_close, function, *args, **kwargs)
    return await outcome if isinstance(outcome, _core.Call) else outcome


def _close(outcome: Any) -> None:
    if isinstance(outcome, _core.Call):
        outcome.close()


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _refuse_arguments(what: Any, has_arguments: bool) -> None:
    if has_arguments:
        if asyncio.iscoroutine(what):
            what.close()
        raise TypeError(
            f"{what!r} has its arguments already, or computes nothing; arguments are for functions"
        )
