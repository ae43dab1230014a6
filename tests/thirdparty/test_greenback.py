"""greenback: plain functions can await, because their task's coroutine runs in a greenlet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import threadlets
from blocking import (
    Way,
    blocked,
    call_inline,
    in_one_thread,
    is_home,
    others_block,
    pause,
    until_home,
)

pytest.importorskip("greenlet", reason="greenlet is not installed")
greenback = pytest.importorskip("greenback", reason="greenback is not installed")

N_TASKS = 20


def session(way: Way | None, number: int) -> int:
    """Await from a plain function repeatedly; all must happen on one thread."""
    total = 0
    with in_one_thread() as note:
        for step in range(10):
            note()
            total += greenback.await_(asyncio.sleep(step % 3 / 1000, number))
            note()
            if way is not None and step % 5 == 0:
                total += int(greenback.await_(awaited(way, pause, 0.001)) * 1000)
    return total


async def awaited(way: Way, *args: Any) -> Any:
    return await way.call(*args)


# -- while functions of other tasks block ----------------------------------------------------------


def test_functions_await_through_a_portal(way: Way, run_way: Any) -> None:
    """After `ensure_portal` a task runs in a greenlet until it ends, also when it awaits normally."""

    async def task(number: int) -> int:
        await greenback.ensure_portal()
        total = session(way, number)
        await asyncio.sleep(0.001)
        return total + session(way, 0)

    async def main() -> list[int]:
        async with others_block(way.call):
            return await asyncio.gather(*(task(number) for number in range(N_TASKS)))

    assert run_way(main()) == [10 * number + 4 for number in range(N_TASKS)]


def test_functions_await_within_a_portal_run(way: Way, run_way: Any) -> None:
    """A coroutine, a plain function, and all tasks below a coroutine can have a portal for a time."""

    async def coroutine(number: int) -> int:
        await asyncio.sleep(0.001)
        return session(way, number)

    async def tree(number: int) -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine(number)) for _ in range(2)]
        return tasks[0].result() + tasks[1].result()

    async def task(number: int) -> list[int]:
        return [
            await greenback.with_portal_run(coroutine, number),
            await greenback.with_portal_run_sync(session, way, number),
        ]

    async def main() -> list[list[int]]:
        async with others_block(way.call):
            return await asyncio.gather(*(task(number) for number in range(N_TASKS)))

    assert run_way(main()) == [[10 * number + 2] * 2 for number in range(N_TASKS)]


def test_everything_that_is_async_is_awaited(way: Way, run_way: Any) -> None:
    """Decorated functions, context managers and iterators are awaited, and errors pass."""
    journal: list[str] = []

    @greenback.autoawait
    async def double(number: int) -> int:
        await asyncio.sleep(0.001)
        return 2 * number

    @asynccontextmanager
    async def managed() -> AsyncIterator[str]:
        await asyncio.sleep(0.001)
        try:
            yield "managed"
        finally:
            await asyncio.sleep(0.001)
            journal.append("left")

    async def numbers() -> AsyncIterator[int]:
        for number in range(5):
            await asyncio.sleep(0.001)
            yield number

    def function() -> int:
        with greenback.async_context(managed()) as value:
            assert "managed" == value
            total = sum(double(number) for number in greenback.async_iter(numbers()))
        with pytest.raises(TimeoutError):
            greenback.await_(asyncio.wait_for(asyncio.sleep(60), 0.001))
        return total

    async def task() -> int:
        await greenback.ensure_portal()
        return function()

    async def main() -> list[int]:
        async with others_block(way.call):
            return await asyncio.gather(*(task() for _ in range(N_TASKS)))

    assert [20] * N_TASKS == run_way(main())
    assert ["left"] * N_TASKS == journal


def test_a_task_is_given_a_portal_by_another(way: Way, run_way: Any) -> None:
    """The task has the portal from its next step on."""

    async def task(has_portal: asyncio.Event, number: int) -> int:
        await has_portal.wait()
        return session(way, number)

    async def main() -> list[int]:
        has_portal = asyncio.Event()
        async with others_block(way.call):
            tasks = [asyncio.create_task(task(has_portal, n)) for n in range(N_TASKS)]
            await asyncio.sleep(0.001)
            for it in tasks:
                greenback.bestow_portal(it)
            has_portal.set()
            return await asyncio.gather(*tasks)

    assert run_way(main()) == [10 * number + 2 for number in range(N_TASKS)]


def test_cancellations_arrive_in_functions(way: Way, run_way: Any) -> None:
    """`await_` raises the cancellation, and the clean-up can await."""
    journal: list[str] = []

    def function() -> None:
        try:
            greenback.await_(asyncio.sleep(60))
        finally:
            greenback.await_(asyncio.sleep(0.001))
            journal.append("clean")

    async def task() -> None:
        await greenback.ensure_portal()
        function()

    async def cancelled(delay_s: float) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(delay_s):
                await greenback.with_portal_run_sync(function)
        child = asyncio.create_task(task())
        await asyncio.sleep(delay_s)
        child.cancel()
        with pytest.raises(asyncio.CancelledError):
            await child

    async def main() -> None:
        async with others_block(way.call):
            await asyncio.gather(*(cancelled((n + 1) / 1000) for n in range(N_TASKS)))

    run_way(main())
    assert ["clean"] * 2 * N_TASKS == journal


# -- while home is blocked -------------------------------------------------------------------------


def test_portals_of_another_thread_stay_there(run_threadlets: Any) -> None:
    """Portals opened while home was blocked stay on their thread when home has the role again."""

    async def task(may_end: asyncio.Event, begun_on: list[int], number: int) -> int:
        await greenback.ensure_portal()
        with in_one_thread() as note:
            begun_on.append(note())
            await may_end.wait()
            note()
            total = session(None, number)
            await threadlets.call(pause, 0.001)
            note()
        return total

    async def main() -> list[int]:
        may_end, begun_on = asyncio.Event(), list[int]()
        async with blocked(call_inline):
            tasks = [asyncio.create_task(task(may_end, begun_on, n)) for n in range(N_TASKS)]
            while len(begun_on) < N_TASKS:
                await asyncio.sleep(0)
        await until_home()
        assert not any(is_home(thread) for thread in begun_on)
        may_end.set()
        return await asyncio.gather(*tasks)

    assert run_threadlets(main()) == [10 * number for number in range(N_TASKS)]


def test_portals_of_home_wait_for_it(run_threadlets: Any) -> None:
    """A task with a portal at home is resumed at home, also if home was blocked meanwhile."""

    async def task(number: int) -> tuple[int, int]:
        await greenback.ensure_portal()
        return threading.get_ident(), session(None, number)

    async def main() -> list[tuple[int, int]]:
        tasks = [asyncio.create_task(task(number)) for number in range(N_TASKS)]
        await asyncio.sleep(0)
        for _ in range(3):
            async with blocked(call_inline):
                await asyncio.sleep(0.005)
        return await asyncio.gather(*tasks)

    home = threading.get_ident()
    assert run_threadlets(main()) == [(home, 10 * number) for number in range(N_TASKS)]
