"""Cancelling a task that awaits a blocked function, which cannot be stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import threadlets

from .harness import Gate

pytestmark = pytest.mark.starts("inline", "beside")


def test_cancelled_caller_gets_the_cancellation_when_the_function_returns(run: Any) -> None:
    """By default an await ends only when the function returns; the function's result is lost."""

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate, "lost"))
        await gate.entered.wait()
        task.cancel("why")
        for _ in range(10):
            await asyncio.sleep(0)
        assert not task.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError, match="why"):
            await task
        assert task.cancelled()

    run(main())


def test_cancellation_comes_once(run: Any) -> None:
    """A caller that catches the cancellation can go on awaiting."""

    async def caller(gate: Gate) -> str:
        try:
            await threadlets.call(gate)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            return "cleaned up"
        return "not cancelled"

    async def main() -> str:
        gate = Gate()
        task = asyncio.create_task(caller(gate))
        await gate.entered.wait()
        task.cancel()
        gate.open()
        return await task

    assert "cleaned up" == run(main())


def test_exception_of_the_function_is_not_lost_to_a_cancellation(run: Any) -> None:
    """A function's exception is raised instead of the cancellation, because it says more."""

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate, ValueError("late")))
        await gate.entered.wait()
        task.cancel()
        gate.open()
        with pytest.raises(ValueError, match="late"):
            await task

    run(main())


def test_cancellation_that_gave_way_to_an_exception_comes_at_the_next_await(run: Any) -> None:
    """The cancellation is not lost when a function's exception is raised first."""

    async def caller(gate: Gate) -> str:
        with pytest.raises(ValueError, match="late"):
            await threadlets.call(gate, ValueError("late"))
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return "cancelled"
        return "not cancelled"

    async def main() -> str:
        gate = Gate()
        task = asyncio.create_task(caller(gate))
        await gate.entered.wait()
        task.cancel()
        gate.open()
        return await task

    assert "cancelled" == run(main())
    assert "cancelled" == run(main(), tasks="asyncio")


def test_abandoned_call_gives_the_cancellation_at_once(run: Any) -> None:
    """With `abandon_on_cancel` the await ends at once, and the function goes on alone."""

    async def main() -> None:
        gate = Gate()
        call = threadlets.call(gate, abandon_on_cancel=True)
        task = asyncio.create_task(call)
        await gate.entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 1 == threadlets.stats()["blocked"]
        gate.open()

    run(main())


def test_abandonable_call_passes_arguments_context_and_result(run: Any) -> None:
    """An abandonable call differs from others only in that its context is a copy."""

    def function(a: int, *, b: int) -> int:
        return a + b

    async def main() -> None:
        assert 3 == await threadlets.call(function, 1, b=2, abandon_on_cancel=True)
        assert 3 == await threadlets.call(function, 1, b=2, abandon_on_cancel=False)
        with pytest.raises(TypeError, match="unexpected keyword"):
            await threadlets.call(function, 1, b=2, c=3, abandon_on_cancel=True)  # type: ignore[call-overload]

    run(main())


@pytest.mark.parametrize("abandons", [False, True])
def test_timeout_ends_a_blocked_call(run: Any, abandons: bool) -> None:
    """The timeout is raised at once if the call can be abandoned, else when the function returns."""

    async def main() -> None:
        gate = Gate()
        loop = asyncio.get_running_loop()
        if not abandons:
            loop.call_later(0.02, gate.open)
        call = threadlets.call(gate, abandon_on_cancel=abandons)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.001)
        gate.open()

    run(main())


def test_call_that_was_cancelled_before_it_began_does_not_begin(run: Any) -> None:
    """A call that is cancelled before its first step does not call its function."""

    async def main() -> None:
        called: list[int] = []
        task = asyncio.create_task(threadlets.call(called.append, 1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [] == called

    run(main())


def test_cancellation_that_is_taken_back_leaves_the_result(run: Any) -> None:
    """Python 3.13 lets `uncancel` forget a cancellation that was not delivered yet."""

    async def main() -> object:
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate, "kept"))
        await gate.entered.wait()
        task.cancel()
        task.uncancel()
        gate.open()
        try:
            return await task
        except asyncio.CancelledError:
            return "cancelled"

    import sys

    assert run(main()) == ("kept" if sys.version_info >= (3, 13) else "cancelled")
