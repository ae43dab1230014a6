"""Handles: a callback is called once, unless its handle was cancelled before."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from typing import Any

from .harness import Run, threadlets_only, ticks


def test_callback_is_called_with_its_arguments(run: Run) -> None:
    """`call_soon` calls its callback with the arguments it was given."""

    async def main() -> None:
        called: asyncio.Future[tuple[int, str]] = asyncio.Future()
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda *args: called.set_result(args), 1, "two")
        assert (1, "two") == await called

    run(main())


def test_handles_are_instances_of_asyncios(run: Run) -> None:
    """A handle is an instance of `asyncio.Handle`, and a timer's of `asyncio.TimerHandle`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop.call_soon(print), asyncio.Handle)
        assert not isinstance(loop.call_soon(print), asyncio.TimerHandle)
        assert isinstance(loop.call_later(9, print), asyncio.TimerHandle)
        thread_safe = loop.call_soon_threadsafe(print)
        kind = getattr(asyncio.events, "_ThreadSafeHandle", asyncio.Handle)
        assert isinstance(thread_safe, kind)

    run(main())


def test_cancelled_callback_is_not_called(run: Run) -> None:
    """The callback of a handle that is cancelled before its tick is not called."""

    async def main() -> None:
        calls: list[str] = []
        handle = asyncio.get_running_loop().call_soon(calls.append, "called")
        assert not handle.cancelled()
        handle.cancel()
        assert handle.cancelled()
        await ticks(2)
        assert [] == calls

    run(main())


def test_callback_can_be_cancelled_by_one_of_its_own_tick(run: Run) -> None:
    """A callback can cancel a later one of the same tick."""

    async def main() -> None:
        calls: list[str] = []
        loop = asyncio.get_running_loop()
        handles: list[asyncio.Handle] = []
        loop.call_soon(lambda: handles[0].cancel())
        handles.append(loop.call_soon(calls.append, "called"))
        await ticks(2)
        assert [] == calls

    run(main())


def test_cancelling_twice_does_nothing(run: Run) -> None:
    """A second `cancel()` has no effect."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for handle in (loop.call_soon(print), loop.call_later(60, print)):
            handle.cancel()
            handle.cancel()
            assert handle.cancelled()

    run(main())


def test_handle_that_ran_was_not_cancelled(run: Run) -> None:
    """`cancelled()` stays false once the callback was called, for timers too."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        handles = [loop.call_soon(int), loop.call_later(0, int)]
        await ticks(3)
        assert [False, False] == [handle.cancelled() for handle in handles]

    run(main())


def test_handle_gives_its_callback_up_when_cancelled(run: Run) -> None:
    """A cancelled handle drops its callback and arguments at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        token = Token()
        died = token.died
        for handle in (loop.call_soon(id, token), loop.call_later(60, id, token)):
            handle.cancel()
        del token
        assert [True] == died

    run(main())


@threadlets_only
def test_handle_gives_its_callback_up_when_it_ran(run: Run) -> None:
    """A handle that is kept does not keep the arguments of a call that is over."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        token = Token()
        died = token.died
        kept = loop.call_soon(id, token)
        del token
        await ticks(2)
        assert [True] == died
        assert "done" in repr(kept)

    run(main())


def test_repr_names_the_callback(run: Run) -> None:
    """A handle's repr names its callback, and says whether it is cancelled."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        soon, later = loop.call_soon(named), loop.call_later(60, named)
        assert "named" in repr(soon)
        assert "named" in repr(later)
        later.cancel()
        assert "cancelled" in repr(later)

    run(main())


def test_callback_runs_in_the_context_it_was_given(run: Run) -> None:
    """`context=` chooses the context; without it a copy of the current one is used."""
    var: ContextVar[str] = ContextVar("var", default="default")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        given = copy_context()
        given.run(var.set, "given")
        seen: list[str] = []

        def look() -> None:
            seen.append(var.get())
            var.set("changed")

        var.set("present")
        loop.call_soon(look, context=given)
        loop.call_soon(look)
        loop.call_soon(look)
        loop.call_later(0, look, context=given)
        await ticks(4)
        assert ["given", "present", "present", "changed"] == seen
        assert ("present", "changed") == (var.get(), given[var])

    run(main())


@threadlets_only
def test_something_that_is_no_context_is_refused(run: Run) -> None:
    """A wrong `context=` raises in the caller or reaches the exception handler."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        failures: list[dict[str, object]] = []
        loop.set_exception_handler(lambda _loop, context: failures.append(context))
        try:
            loop.call_soon(print, context="no context")  # type: ignore[arg-type]
        except TypeError:
            return
        await ticks(2)
        assert 1 == len(failures)

    run(main())


def named() -> None:
    """Give a handle's repr a name to show."""


class Token:
    """An object that notes when it is freed."""

    def __init__(self) -> None:
        self.died: list[bool] = []

    def __del__(self) -> None:
        self.died.append(True)


def test_private_attributes_are_as_asyncio_has_them(run: Run) -> None:
    """Programs read them; a cancelled handle has neither callback nor arguments."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = copy_context()
        soon: Any = loop.call_soon(named, context=context)
        later: Any = loop.call_at(loop.time() + 60, id, 7, context=context)
        ends_sleep: Any = asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]
        sleep: Any = loop.call_later(60, ends_sleep, loop.create_future(), 1)
        assert (named, ()) == (soon._callback, soon._args)
        assert (id, (7,), later.when()) == (later._callback, later._args, later._when)
        assert (ends_sleep, 1) == (sleep._callback, sleep._args[1])
        assert [context, context] == [soon._context, later._context]
        assert [False, False] == [soon._cancelled, later._cancelled]
        assert later._scheduled
        for handle in (soon, later, sleep):
            handle.cancel()
            assert (True, None, None) == (handle._cancelled, handle._callback, handle._args)

    run(main())
