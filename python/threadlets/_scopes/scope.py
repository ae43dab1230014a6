"""`Scope`: requests that are cancelled, awaited and accounted for together."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import sys
from asyncio import log
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from threadlets._arguments import check_environment, check_number
from threadlets._core import (
    Dispatcher,
    Environment,
    Members,
    Result,
    Task,
    TimerHandle,
    checkpoint,
)
from threadlets._introspection import BlockedFunction
from threadlets._public import set_module
from threadlets._scopes import starting
from threadlets._scopes.blocked import blocked_functions
from threadlets._scopes.outstanding import Ledger, describe_requests, running_loop
from threadlets._syslets.program import Syslet
from threadlets.exceptions import DrainTimeoutError

P = ParamSpec("P")
T = TypeVar("T")

#: How long the end of a scope waits before it names the functions that it waits for, in seconds.
_STALL_S = 5.0
_STALL_IN_DEBUG_MODE_S = 0.5


def _check_time(name: str, value: float) -> None:
    if math.isnan(check_number(name, value, "a time in seconds, or None for none")):
        raise ValueError(f"{name} is NaN; it is a time in seconds, or None for none")


@set_module("threadlets")
class Scope:
    """Requests that end before the block does, and are cancelled together.

    `async with Scope() as scope:` starts requests with `scope.start(…)`. The block ends when all of
    them have ended. When one of them, or the block, fails, the others are cancelled, and the
    exceptions are raised together as an `ExceptionGroup`, as by `asyncio.TaskGroup`.

    Cancellation is edge-triggered, as in asyncio: every request of the scope and of the scopes
    within, and the block, get `asyncio.CancelledError` once, where they wait; what they await
    afterwards, to clean up, is not interrupted. A scope that was cancelled by its own `cancel` ends
    without an exception.

    `deadline` is a time of the loop's clock (`loop.time()`), `timeout` a number of seconds from the
    start of the block; when it has passed, the scope is cancelled, and its end raises
    `TimeoutError`. With `shield`, only the scope itself cancels the block and its requests, not the
    scopes around it.

    Raises:
        ValueError: there are both a deadline and a time-out, or one of them is NaN.
    """

    def __init__(
        self,
        deadline: float | None = None,
        *,
        timeout: float | None = None,
        name: str | None = None,
        shield: bool = False,
    ) -> None:
        if deadline is not None and timeout is not None:
            raise ValueError("a scope has a deadline or a timeout, not both")
        for limit, what in ((deadline, "deadline"), (timeout, "timeout")):
            if limit is not None:
                _check_time(what, limit)
        self.name = name
        self._deadline = deadline
        self._timeout = timeout
        self._shield = shield
        self._loop: Dispatcher | None = None
        self._host: asyncio.Task[Any] | None = None
        self._members: Members | None = None
        # The scopes that the host has entered, innermost last; they all share this list.
        self._entered: list[Members] = []
        self._timer: TimerHandle | asyncio.TimerHandle | None = None
        self._reason: str | None = None
        self._is_cancelled = False
        self._is_expired = False
        self._is_closed = False
        self._n_cancels_before = 0

    # -- state -----------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called, or the deadline has passed."""
        return self._is_cancelled

    @property
    def reason(self) -> str | None:
        """The reason that `cancel` was given."""
        return self._reason

    @property
    def deadline(self) -> float | None:
        """When the scope is cancelled, in seconds of the loop's time; None: never."""
        return self._deadline

    @deadline.setter
    def deadline(self, deadline: float | None) -> None:
        if deadline is not None:
            _check_time("deadline", deadline)
        self._deadline, self._timeout = deadline, None
        if self._members is not None and not self._is_cancelled and not self._is_closed:
            self._set_timer()

    def ledger(self) -> Ledger:
        """Count the scope's own requests that have not ended, without those of scopes within."""
        return Ledger() if self._members is None else Ledger(**self._members.counts())

    def __repr__(self) -> str:
        state = (
            "closed"
            if self._is_closed
            else "new"
            if self._members is None
            else f"cancelled: {self._reason}"
            if self._is_cancelled and self._reason
            else "cancelled"
            if self._is_cancelled
            else "open"
        )
        return f"<Scope {self.name!r} {state}>" if self.name else f"<Scope {state}>"

    # -- starting --------------------------------------------------------------------------------

    @overload
    def start(self, what: Coroutine[Any, Any, T], /) -> asyncio.Task[T]: ...
    @overload
    def start(
        self, what: Syslet[P], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Task[Result]: ...
    @overload
    def start(
        self, what: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Task[T]: ...
    @overload
    def start(
        self, what: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Task[T]: ...
    @overload
    def start(self, what: Awaitable[T], /) -> asyncio.Future[T]: ...
    @overload
    def start(self, what: Any, /, *args: Any, fp: Environment, **kwargs: Any) -> Any: ...

    def start(self, what: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Start a request and return it: it can be awaited, cancelled, and asked for its result.

        `what` is a coroutine; a coroutine function, a function or a `Syslet`, with its arguments; or
        something else that can be awaited. A function is called as a threadlet, in the next tick. A
        future or a `threadlets.sleep` costs no task. Coroutines and functions compute in the
        floating-point environment `fp`, if it is given (`threadlets.fp.environment`).

        In a scope that was cancelled, the request is cancelled at once.

        Raises:
            RuntimeError: the scope was not entered, or has ended.
            TypeError: `what` can be neither called nor awaited.
        """
        if self._members is None or self._is_closed:
            if asyncio.iscoroutine(what):
                what.close()
            state = "has ended" if self._is_closed else "was not entered"
            raise RuntimeError(
                f"{self!r} {state}: requests are started inside of its `async with` block"
            )
        context = None
        if (fp := kwargs.pop("fp", None)) is not None:
            check_environment(fp)
            context = contextvars.copy_context()
            fp.apply_to(context)
        return starting.start(self._members, what, args, kwargs, context)

    # -- cancelling ------------------------------------------------------------------------------

    def cancel(self, reason: str | None = None) -> None:
        """Cancel the block, all requests of the scope, and those of the scopes within.

        Each gets `asyncio.CancelledError` with the reason where it waits; if there are many, some
        get it in this tick and the others in the next ones. A second call interrupts again what has
        not ended. Call it only on the thread that runs the loop. It has no effect once the scope
        has ended.
        """
        if self._members is None:
            raise RuntimeError(f"{self!r} was not entered: there is nothing to cancel")
        if self._is_closed:
            return
        again, self._is_cancelled = self._is_cancelled, True
        if self._reason is None:
            self._reason = reason
        of = f" {self.name!r}" if self.name else ""
        message = f"scope{of} was cancelled" + (f": {reason}" if reason else "")
        self._members.cancel(message, again)

    def _deadline_passed(self) -> None:
        self._timer = None
        if not self._is_closed and not self._is_cancelled:
            self._is_expired = True
            self.cancel("its deadline has passed")

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._deadline is not None:
            assert self._loop is not None
            self._timer = self._loop.call_at(self._deadline, self._deadline_passed)

    # -- draining --------------------------------------------------------------------------------

    async def drain(self, timeout: float | None = None) -> None:
        """Wait until no request of the scope or of the scopes within is outstanding.

        Everything that they held has been given back then: memory, descriptors, timers, threads.

        Raises:
            DrainTimeoutError: requests are outstanding after `timeout` seconds; it names them, and
                the blocked functions with their stacks.
        """
        if timeout is not None:
            _check_time("timeout", timeout)
        await checkpoint
        loop = running_loop()
        until = None if timeout is None else loop.time() + timeout
        while (emptied := self._emptied_within()) is not None:
            if until is None:
                await emptied
            elif not (await asyncio.wait((emptied,), timeout=until - loop.time()))[0]:
                emptied.cancel()
                raise DrainTimeoutError(
                    f"{self!r} has {self._describe_left()}", self._blocked_functions()
                )

    def _within(self) -> list[Members]:
        return [] if self._members is None else self._members.within()

    def _emptied_within(self) -> asyncio.Future[None] | None:
        """Return a future that is done when the first of the scopes with requests has none."""
        return next(filter(None, (it.emptied() for it in self._within())), None)

    def _requests(self) -> list[Any]:
        return [request for it in self._within() for request in it.requests()]

    def _blocked_functions(self) -> list[BlockedFunction]:
        assert self._loop is not None
        return blocked_functions(self._loop, set(self._requests()))

    def _describe_left(self) -> str:
        requests, blocked = self._requests(), self._blocked_functions()
        described = f"{len(requests)} request(s) that have not ended: {describe_requests(requests)}"
        if blocked:
            described += "\nFunctions that are blocked cannot be stopped:\n" + "\n".join(
                map(str, blocked)
            )
        return described

    def _report_stall(self) -> None:
        if (blocked := self._blocked_functions()) and self.ledger():
            log.logger.warning(
                "%r waits for functions that are blocked; they cannot be stopped, and the scope ends "
                "when they return:\n%s",
                self,
                "\n".join(map(str, blocked)),
            )

    # -- entering and leaving --------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the scope.

        Raises:
            RuntimeError: no threadlets loop or no task runs here, or the scope was entered before.
        """
        if self._members is not None or self._is_closed:
            raise RuntimeError(f"{self!r} was entered before: a scope is for one block")
        # Here, because leaving a scope whose requests have all ended does not yield.
        await checkpoint
        loop = running_loop()
        host = asyncio.current_task()
        if host is None:
            raise RuntimeError("a scope is entered by a task, and no task runs here")
        self._loop, self._host = loop, host
        # A cancellation that the task has not seen yet will reach it in the block.
        self._n_cancels_before = host.cancelling() - bool(getattr(host, "_must_cancel", False))
        # The loop keeps the lists, so that those of a closed loop can be collected.
        self._entered = loop.__dict__.setdefault("_entered", {}).setdefault(host, [])
        self._members = Members(loop, host, self._entered, self._shield)
        if self._timeout is not None:
            self._deadline = loop.time() + self._timeout
        self._set_timer()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._members is not None
        assert self._host is not None
        n_cancels_of_host = self._members.leave(error)
        try:
            if isinstance(error, GeneratorExit) and not self._may_await(sys._getframe(1)):
                # The coroutine is being dropped, so it cannot await anything any more.
                self._members.cancel("the task of its scope was dropped", again=False)
                return None
            return await self._leave(self._members, self._host, n_cancels_of_host, error)
        finally:
            self._close(self._members, self._host)
            # A traceback refers to this frame, which must not keep requests alive.
            del error, traceback

    def _may_await(self, block: FrameType) -> bool:
        """Whether a block that ends by `GeneratorExit` is that of an async generator being closed."""
        is_generator = block.f_code.co_flags & inspect.CO_ASYNC_GENERATOR
        return bool(is_generator) and _current_task() is self._host

    async def _leave(
        self,
        members: Members,
        host: asyncio.Task[Any],
        n_cancels_of_host: int,
        error: BaseException | None,
    ) -> bool | None:
        cancelled = error if isinstance(error, asyncio.CancelledError) else None
        n_cancels = host.cancelling()
        for _ in range(n_cancels_of_host):
            n_cancels = host.uncancel()
        if n_cancels_of_host and n_cancels <= self._n_cancels_before:
            # Only the scope has cancelled the block.
            cancelled = await self._forget_cancel(host)
        if error is not None:
            members.cancel_for("the block of the scope failed: ", error)
        while (emptied := members.emptied()) is not None:
            try:
                await self._wait(emptied)
            except asyncio.CancelledError as again:
                cancelled = again
                members.cancel_for("", again)
            except BaseException:
                # GeneratorExit, for instance: the coroutine is being dropped.
                members.cancel("the task of its scope was dropped", again=False)
                raise
        errors, interrupt = members.failures()
        if interrupt is not None:
            raise interrupt
        if error is not None and not isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            errors.append(error)
        if not errors:
            if isinstance(error, GeneratorExit) or (error is not None and cancelled is error):
                return None
            if cancelled is not None:
                raise cancelled
        if self._is_expired:
            late = TimeoutError(f"the deadline of {self!r} has passed")
            if not errors:
                raise late from (error if isinstance(error, asyncio.CancelledError) else None)
            errors.append(late)
        if errors:
            of = f" {self.name!r}" if self.name else ""
            try:
                raise BaseExceptionGroup(f"errors in scope{of}", errors) from None
            finally:
                if cancelled is not None and host.cancelling():
                    # The group hides a cancellation that is not the scope's.
                    _cancel_anew(host)
        return isinstance(error, asyncio.CancelledError)

    async def _forget_cancel(self, host: asyncio.Task[Any]) -> asyncio.CancelledError | None:
        """Consume a cancellation that the block has not seen; return one that comes meanwhile."""
        if getattr(host, "_must_cancel", False):
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as cancelled:
                if host.cancelling() > self._n_cancels_before:
                    return cancelled
        return None

    async def _wait(self, emptied: asyncio.Future[None]) -> None:
        assert self._loop is not None
        stall = _STALL_IN_DEBUG_MODE_S if self._loop._debug else _STALL_S
        watch = self._loop.call_later(stall, self._report_stall)
        try:
            await emptied
        finally:
            watch.cancel()

    def _close(self, members: Members, host: asyncio.Task[Any]) -> None:
        self._is_closed = True
        self._host = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            members.close()
        finally:
            if not self._entered:
                assert self._loop is not None
                self._loop.__dict__["_entered"].pop(host, None)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # No loop runs.


def _cancel_anew(host: asyncio.Task[Any]) -> None:
    """Have the task see once more that it was cancelled, unless that is taken back first."""
    if isinstance(host, Task):
        host._cancel_anew()
    elif sys.version_info >= (3, 13):
        # Before CPython 3.13, the task would be cancelled even if that is taken back.
        host.uncancel()
        host.cancel()
