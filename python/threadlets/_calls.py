"""Threadlets: plain functions, called where they are awaited if quick, else on another thread."""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, Self, TypeVar, overload

from threadlets import _core
from threadlets._arguments import check_choice, check_environment, check_integer, wrong_type
from threadlets._public import set_module
from threadlets._running import running_dispatcher_or_none

P = ParamSpec("P")
T = TypeVar("T")


#: Where the calls of a pool start; see `Pool`.
Start = Literal["auto", "inline", "beside"]


@set_module("threadlets")
class Priority(enum.IntEnum):
    """The priority of a pool's calls."""

    INTERACTIVE = 0
    NORMAL = 1
    BATCH = 2


INTERACTIVE = Priority.INTERACTIVE
NORMAL = Priority.NORMAL
BATCH = Priority.BATCH


@set_module("threadlets")
class Pool(_core.Pool):
    """Threadlets that are limited, prioritised, counted and cancelled together.

    `limit` is the number of calls that may run at once (None: no limit); further calls wait, first
    in, first out. With `fp`, calls compute in that environment (`threadlets.fp.environment`), unless
    they name another. `priority` says when a waiting call starts: an INTERACTIVE call before
    everything else that is ready, a NORMAL call in the order of the ready queue, a BATCH call when
    nothing else is ready. No call waits for ever: each priority lets a lower one pass now and then.

    `start` says where calls start. "auto": on another thread until the function has returned a few
    times without waiting, and from then on inline, until it blocks there (docs/threadlets.md).
    "inline": always on the stack of the awaiter; if the function blocks, another thread takes the
    loop over. "beside": always on another thread, as in a thread pool, but without a fixed size.

    A pool can be made anywhere. It belongs to the loop that runs its calls, as long as they run.

    Raises:
        ValueError: `limit` is less than 1, or `priority` or `start` is not one of the values above.
        TypeError: an argument is of the wrong type.
        RuntimeError: at a call, the pool is in use by another loop.
    """

    def __new__(
        cls,
        name: str | None = None,
        limit: int | None = None,
        priority: Priority = NORMAL,
        *,
        fp: _core.Environment | None = None,
        start: Start = "auto",
    ) -> Self:
        """Make a pool; see the class."""
        remedy = "it must be 'auto', 'inline' or 'beside'"
        check_choice("start", start, ("auto", "inline", "beside"), remedy)
        if fp is not None:
            check_environment(fp)
        return super().__new__(cls, _check_limit(limit), _check_priority(priority), fp, start)

    def __init__(
        self,
        name: str | None = None,
        limit: int | None = None,
        priority: Priority = NORMAL,
        *,
        fp: _core.Environment | None = None,
        start: Start = "auto",
    ) -> None:
        self.name = name

    @property
    def limit(self) -> int | None:
        """How many calls may run at once; None: no limit. A change stops no running call."""
        return super().limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self._set_limit(running_dispatcher_or_none(), _check_limit(limit))

    @property
    def priority(self) -> Priority:
        """When waiting calls start; a change applies also to calls that wait already."""
        return Priority(self._priority)

    @priority.setter
    def priority(self, priority: Priority) -> None:
        self._set_priority(running_dispatcher_or_none(), _check_priority(priority))

    def cancel(self, message: str | None = None) -> int:
        """Cancel all calls of the pool and return how many there were.

        Waiting calls never start. A blocked function cannot be stopped: its awaiter gets
        `asyncio.CancelledError` when the function returns, and the result is lost.

        Raises:
            RuntimeError: no threadlets loop runs in this thread.
        """
        dispatcher = running_dispatcher_or_none()
        if dispatcher is None:
            raise RuntimeError(
                "Pool.cancel() was called where no threadlets loop runs; from another thread, use "
                "loop.call_soon_threadsafe(pool.cancel)"
            )
        return self._cancel(dispatcher, message)

    def stats(self) -> dict[str, Any]:
        """Return counts: `running`, `queued`, and, since the pool was made, `calls`, `cancelled`.

        `functions` lists what the running loop knows of each function, as in `threadlets.stats()`.
        """
        dispatcher = running_dispatcher_or_none()
        counts = self._counts(dispatcher)
        stats: dict[str, Any] = dict(
            zip(("running", "queued", "calls", "cancelled"), counts, strict=True)
        )
        stats["functions"] = self._functions(dispatcher)
        return stats


def _check_limit(limit: int | None) -> int | None:
    if limit is None:
        return None
    return check_integer("limit", limit, "how many calls may run at once, or None for any number")


def _check_priority(priority: Any) -> Priority:
    try:
        return Priority(priority)
    except ValueError:
        raise ValueError(
            f"priority is {priority!r}; it is threadlets.INTERACTIVE, NORMAL or BATCH"
        ) from None


@overload
def threadlet(function: Callable[P, T], /) -> Callable[P, _core.Call[T]]: ...


@overload
def threadlet(
    *,
    pool: Pool | None = None,
    abandon_on_cancel: bool = False,
    fp: _core.Environment | None = None,
) -> Callable[[Callable[P, T]], Callable[P, _core.Call[T]]]: ...


@set_module("threadlets")
def threadlet(
    function: Callable[..., Any] | None = None,
    /,
    *,
    pool: Pool | None = None,
    abandon_on_cancel: bool = False,
    fp: _core.Environment | None = None,
) -> Any:
    """Make a plain function awaitable: `await f(x)` is `await threadlets.call(f, x)`.

    The signature stays the same; `f.__wrapped__` is the original function. With `pool`, all calls
    belong to that pool. `abandon_on_cancel` and `fp` are those of `threadlets.call`.

    Raises:
        TypeError: `function` is a coroutine function or an async generator, which does not block, or
            cannot be called; or an option is of the wrong type.
    """
    if function is None:
        return functools.partial(threadlet, pool=pool, abandon_on_cancel=abandon_on_cancel, fp=fp)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{function.__qualname__}() is asynchronous: it does not block, so it needs no "
            "threadlet; leave the decorator out"
        )
    if not callable(function):
        raise wrong_type(
            "function", function, "a function that may block", "pass what can be called"
        )
    if pool is not None and not isinstance(pool, Pool):
        raise wrong_type(
            "pool", pool, "the pool that the calls belong to", "pass a threadlets.Pool"
        )
    if fp is not None:
        check_environment(fp)
    call: Callable[..., Any] = _core.call if pool is None else pool.call
    options: dict[str, Any] = {}
    if abandon_on_cancel:
        options["abandon_on_cancel"] = True
    if fp is not None:
        options["fp"] = fp
    if options:
        call = functools.partial(call, **options)

    @functools.wraps(function)
    def awaitable(*args: Any, **kwargs: Any) -> Any:
        return call(function, *args, **kwargs)

    return awaitable


async def call_or_discard(
    discard: Callable[[T], object], function: Callable[..., T], /, *args: Any, **kwargs: Any
) -> T:
    """Call a function as a threadlet; call `discard` with its result if the awaiter does not get it.

    For results that own a resource. The awaiter gets no result if its task was cancelled or closed,
    or its loop closed, while the function was blocked.
    """
    loop = asyncio.get_running_loop()
    results: list[T] = []
    is_awaited = True

    def keep() -> T:
        result = function(*args, **kwargs)
        if is_awaited and not loop.is_closed():
            results.append(result)
        else:
            discard(result)
        return result

    # `__wrapped__` makes the loop's history count this as a call of `function`, not of `keep`.
    keep.__wrapped__ = function  # type: ignore[attr-defined]
    try:
        outcome: T = await _core.call(keep)
    except BaseException:
        is_awaited = False
        while results:
            discard(results.pop())
        raise
    return outcome
