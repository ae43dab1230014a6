"""Greenlets that tasks hold across awaits stay on their own threads while other functions block."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from blocking import Way, call_inline, in_one_thread, others_block, pause
from greenlet_tasks import greenlet, spawn, wait

N_TASKS = 20


def test_tasks_go_on_in_their_greenlets(way: Way, run_way: Any) -> None:
    """Each task is resumed on the thread where its greenlet began, with the result of its await."""

    def session(number: int) -> int:
        total = 0
        with in_one_thread() as note:
            for step in range(20):
                note()
                total += wait(asyncio.sleep(step % 3 / 1000, number))
                note()
                if step % 5 == 0:
                    total += int(wait(way.call(pause, 0.001)) * 1000)
        return total

    async def main() -> list[int]:
        async with others_block(way.call):
            return await asyncio.gather(*(spawn(session, number) for number in range(N_TASKS)))

    assert run_way(main()) == [20 * number + 4 for number in range(N_TASKS)]


def test_a_greenlet_is_switched_to_between_awaits(way: Way, run_way: Any) -> None:
    """A task may use a greenlet like a generator, and keep it across awaits."""

    def numbers(number: int) -> None:
        while True:
            number += greenlet.getcurrent().parent.switch(number)

    async def count() -> int:
        generator = greenlet.greenlet(numbers)
        number: int = generator.switch(0)
        for _ in range(30):
            await asyncio.sleep(0.001)
            number = generator.switch(1)
        generator.throw()
        assert generator.dead
        return number

    async def main() -> list[int]:
        async with others_block(way.call):
            return await asyncio.gather(*(count() for _ in range(N_TASKS)))

    assert [30] * N_TASKS == run_way(main())


def test_greenlets_begin_others(way: Way, run_way: Any) -> None:
    """A greenlet within a greenlet awaits through it, and tasks that it makes have greenlets, too."""

    def leaf(number: int) -> int:
        for _ in range(5):
            wait(asyncio.sleep(0.001))
        return number

    def branch(number: int) -> int:
        inner: int = wait(spawn(leaf, number))
        task = asyncio.create_task(spawn(leaf, number))
        wait(asyncio.sleep(0))
        return inner + wait(spawn(leaf, number)) + wait(task)

    async def main() -> list[int]:
        async with others_block(way.call):
            return await asyncio.gather(*(spawn(branch, number) for number in range(N_TASKS)))

    assert run_way(main()) == [3 * number for number in range(N_TASKS)]


def test_a_greenlet_goes_from_task_to_task(way: Way, run_way: Any) -> None:
    """A greenlet that one task began at home is continued there by others: the loop stays at home."""
    if way.call is call_inline:
        pytest.skip("it blocks home although that has a greenlet")

    def session() -> str:
        parent = greenlet.getcurrent().parent
        with in_one_thread() as note:
            for _ in range(10):
                note()
                parent.switch("suspended")
        return "done"

    async def continue_it(session: Any) -> str:
        await asyncio.sleep(0.002)
        return session.switch()

    async def main() -> list[str]:
        begun = greenlet.greenlet(session)
        answers = [begun.switch()]
        async with others_block(way.call):
            for _ in range(10):
                answers.append(await asyncio.create_task(continue_it(begun)))
        return answers

    assert ["suspended"] * 10 + ["done"] == run_way(main())


def test_cancellations_arrive_in_the_greenlet(way: Way, run_way: Any) -> None:
    """The greenlet is cancelled on its own thread, and can await in its clean-up."""
    journal: list[str] = []

    def session() -> None:
        with in_one_thread() as note:
            note()
            try:
                wait(asyncio.sleep(60))
            finally:
                note()
                wait(asyncio.sleep(0.001))
                note()
                journal.append("clean")

    async def cancelled(delay_s: float) -> None:
        task = asyncio.create_task(spawn(session))
        await asyncio.sleep(delay_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def late() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await spawn(session)

    async def main() -> None:
        async with others_block(way.call):
            await asyncio.gather(*(cancelled(n / 1000) for n in range(N_TASKS)))
            await asyncio.gather(*(late() for _ in range(N_TASKS)))

    run_way(main())
    assert ["clean"] * 2 * N_TASKS == journal


def test_failures_cross_from_and_into_greenlets(way: Way, run_way: Any) -> None:
    """An awaited failure is raised inside the greenlet; the greenlet's failure fails its task."""

    async def fail(number: int) -> None:
        await asyncio.sleep(0.001)
        raise KeyError(number)

    def session(number: int) -> None:
        try:
            wait(fail(number))
        except KeyError as error:
            wait(asyncio.sleep(0.001))
            raise LookupError(*error.args) from error

    async def main() -> list[Any]:
        async with others_block(way.call):
            sessions = (spawn(session, number) for number in range(N_TASKS))
            return await asyncio.gather(*sessions, return_exceptions=True)

    assert list(range(N_TASKS)) == [error.args[0] for error in run_way(main())]


def test_a_loop_of_another_thread_keeps_greenlets(way: Way, run_way: Any) -> None:
    """Home is the thread that runs the loop, which need not be the main thread."""

    def session(number: int) -> int:
        for _ in range(10):
            wait(asyncio.sleep(0.001))
        return number

    async def main() -> list[int]:
        async with others_block(way.call):
            return await asyncio.gather(*(spawn(session, number) for number in range(N_TASKS)))

    with ThreadPoolExecutor(1) as executor:
        results = executor.submit(lambda: run_way(main())).result()
    assert list(range(N_TASKS)) == results


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs eager tasks (3.12)")
def test_eager_tasks_keep_greenlets(way: Way, run_way: Any) -> None:
    """Greenlets that begin within the step that makes an eager task belong to the new task."""

    def session(number: int) -> int:
        for _ in range(10):
            wait(asyncio.sleep(0.001))
        return number

    async def main() -> list[int]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with others_block(way.call):
            return await asyncio.gather(*(spawn(session, number) for number in range(N_TASKS)))

    assert list(range(N_TASKS)) == run_way(main())
