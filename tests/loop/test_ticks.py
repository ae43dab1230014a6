"""Ticks: poll, then run what is ready; nothing overtakes and nothing starves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .harness import LoopFactory, Run, socket_pair, threadlets_only


def test_callbacks_run_in_the_order_of_asking(run: Run) -> None:
    """Callbacks of `call_soon` run in the order of the calls."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        order: list[int] = []
        for n in range(1000):
            loop.call_soon(order.append, n)
        await asyncio.sleep(0)
        assert list(range(1000)) == order

    run(main())


def test_tick_does_not_grow_while_it_runs(run: Run) -> None:
    """A callback that another one schedules runs in the next tick, after everything of this one."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        order: list[str] = []

        def first() -> None:
            order.append("first")
            loop.call_soon(order.append, "asked for by first")

        loop.call_soon(first)
        loop.call_soon(order.append, "second")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ["first", "second", "asked for by first"] == order

    run(main())


def test_endless_callbacks_do_not_starve_events(run: Run) -> None:
    """A callback that schedules itself again and again does not starve readers and timers."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        read: asyncio.Future[None] = loop.create_future()
        timed: asyncio.Future[None] = loop.create_future()
        ended = False

        def notice() -> None:
            if not read.done():
                read.set_result(None)

        def again() -> None:
            if not ended:
                loop.call_soon(again)

        with socket_pair() as (ours, theirs):
            loop.add_reader(ours, notice)
            loop.call_later(0.001, timed.set_result, None)
            again()
            theirs.send(b"x")
            await asyncio.gather(read, timed)
            ended = True
            loop.remove_reader(ours)

    run(main())


def test_ready_callbacks_run_before_timers_that_are_due(run: Run) -> None:
    """Within a tick ready callbacks run before due timers."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        order: list[str] = []
        loop.call_at(0, order.append, "timer")
        loop.call_soon(order.append, "ready")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ["ready", "timer"] == order

    run(main())


def test_stop_lets_the_tick_finish(loop: asyncio.AbstractEventLoop) -> None:
    """`stop()` ends the loop after the tick in which it was called."""
    order: list[str] = []
    loop.call_soon(loop.stop)
    loop.call_soon(order.append, "same tick")
    loop.call_soon(loop.call_soon, order.append, "next tick")
    loop.run_forever()
    assert ["same tick"] == order
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ["same tick", "next tick"] == order


def test_stop_before_running_runs_one_tick(loop: asyncio.AbstractEventLoop) -> None:
    """A loop that was stopped beforehand still runs one tick."""
    order: list[str] = []
    loop.stop()
    loop.call_soon(order.append, "ready")
    loop.run_forever()
    assert ["ready"] == order


def test_running_loop_is_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    """The loop is the running loop while it runs, and neither before nor after."""

    async def main() -> Any:
        assert loop.is_running()
        return asyncio.get_running_loop()

    assert not loop.is_running()
    assert loop is loop.run_until_complete(main())
    assert not loop.is_running()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


@threadlets_only  # The stock loop of 3.13.0 forgets that it runs when it refuses to run again.
def test_running_loop_cannot_be_run_again(run: Run, loop_factory: LoopFactory) -> None:
    """Neither the running loop nor another one can be run inside it."""

    async def main() -> None:
        inner = loop_factory()
        for loop in (asyncio.get_running_loop(), inner):
            with pytest.raises(RuntimeError):
                loop.run_forever()
        inner.close()
        await asyncio.sleep(0)

    run(main())


def test_future_of_another_loop_is_refused(
    loop: asyncio.AbstractEventLoop, loop_factory: LoopFactory
) -> None:
    """`run_until_complete` takes only futures of its own loop."""
    other = loop_factory()
    with pytest.raises(ValueError, match="loop"):
        loop.run_until_complete(other.create_future())
    other.close()


def test_stopped_loop_says_that_its_future_is_not_done(loop: asyncio.AbstractEventLoop) -> None:
    """`run_until_complete` raises RuntimeError if the loop is stopped before its future is done."""
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match="stopped before"):
        loop.run_until_complete(loop.create_future())


def test_loop_can_be_run_many_times(loop: asyncio.AbstractEventLoop) -> None:
    """What is pending after one run is there in the next."""
    order: list[int] = []
    timer = loop.call_later(3600, print)
    for n in range(10):
        loop.call_soon(order.append, n)
        loop.run_until_complete(asyncio.sleep(0))
    timer.cancel()
    assert list(range(10)) == order


def test_tasks_take_turns(run: Run) -> None:
    """Tasks that yield run one after the other, round by round."""

    async def main() -> None:
        order: list[str] = []

        async def worker(name: str) -> None:
            for _ in range(3):
                order.append(name)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(worker(name))
        assert list("abcabcabc") == order

    run(main())
