"""Cancelling: which tasks are cancelled, how often, with which message, and what is counted."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import pytest

from .harness import Run, ticks


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def grouped(*bodies: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for body in bodies:
            group.create_task(body)
        await forever()


def test_each_request_counts_until_it_is_taken_back(run: Run) -> None:
    """`cancel` raises the count of `cancelling`, `uncancel` lowers it, and not below zero."""

    async def main() -> list[int]:
        task = asyncio.create_task(forever())
        await ticks(1)
        task.cancel()
        task.cancel()
        counts = [task.cancelling(), task.uncancel(), task.uncancel(), task.uncancel()]
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return counts

    assert [2, 1, 0, 0] == run(main())


def test_cancelled_before_its_first_step_it_never_starts(run: Run) -> None:
    """A task that is cancelled before its first step runs no line of its coroutine."""

    async def main() -> tuple[list[str], bool]:
        ran: list[str] = []

        async def body() -> None:
            ran.append("started")

        task = asyncio.create_task(body())
        assert task.cancel("early")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert ("early",) == caught.value.args
        return ran, task.cancelled()

    assert ([], True) == run(main())


def test_a_taken_back_request_before_the_first_step(run: Run) -> None:
    """From Python 3.13 on, `uncancel` down to zero lets the task run after all."""

    async def main() -> bool:
        async def body() -> str:
            return "ran"

        task = asyncio.create_task(body())
        task.cancel()
        task.uncancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert run(main()) is (sys.version_info < (3, 13))


def test_the_message_reaches_the_innermost_task(run: Run) -> None:
    """A chain of tasks passes one message down and one exception up."""

    async def main() -> list[Any]:
        seen: list[Any] = []

        async def inner() -> None:
            try:
                await forever()
            except asyncio.CancelledError as error:
                seen.append(error.args)
                raise

        async def outer(awaited: asyncio.Task[None]) -> None:
            try:
                await awaited
            except asyncio.CancelledError as error:
                seen.append(error.args)
                raise

        first = asyncio.create_task(inner())
        second = asyncio.create_task(outer(first))
        third = asyncio.create_task(outer(second))
        await ticks(2)
        third.cancel("stop")
        with pytest.raises(asyncio.CancelledError) as caught:
            await third
        seen += [caught.value.args, first.cancelled(), second.cancelled(), third.cancelling()]
        seen += [first.cancelling()]
        return seen

    assert [("stop",)] * 4 + [True, True, 1, 1] == run(main())


def test_a_shared_future_ends_all_waiting_tasks(run: Run) -> None:
    """Cancelling one of two tasks cancels the future that both await, and so the other task."""

    async def main() -> list[bool]:
        future = asyncio.get_running_loop().create_future()

        async def body() -> None:
            await future

        tasks = [asyncio.create_task(body()) for _ in range(2)]
        await ticks(1)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        return [future.cancelled(), *(task.cancelled() for task in tasks)]

    assert [True, True, True] == run(main())


def test_a_shield_stops_the_request(run: Run) -> None:
    """A shielded task goes on when the task that awaits the shield is cancelled."""

    async def main() -> tuple[bool, bool, str]:
        gate = asyncio.Event()

        async def inner() -> str:
            await gate.wait()
            return "went on"

        async def outer(task: asyncio.Task[str]) -> str:
            return await asyncio.shield(task)

        task = asyncio.create_task(inner())
        waiting = asyncio.create_task(outer(task))
        await ticks(2)
        waiting.cancel()
        await asyncio.wait([waiting])
        gate.set()
        return waiting.cancelled(), task.cancelled(), await task

    assert (True, False, "went on") == run(main())


def test_cancelled_in_the_tick_that_wakes_it(run: Run) -> None:
    """A task that is cancelled before it goes on is cancelled, although its future is done."""

    async def main() -> tuple[bool, bool, list[str]]:
        future = asyncio.get_running_loop().create_future()
        ran: list[str] = []

        async def body() -> None:
            await future
            ran.append("went on")

        task = asyncio.create_task(body())
        await ticks(1)
        future.set_result(None)
        assert task.cancel()
        await asyncio.wait([task])
        return task.cancelled(), future.cancelled(), ran

    assert (True, False, []) == run(main())


def test_an_exception_that_arrived_is_replaced(run: Run) -> None:
    """A task that is cancelled before it goes on is cancelled, although its future has failed."""

    async def main() -> bool:
        future = asyncio.get_running_loop().create_future()

        async def body() -> None:
            await future

        task = asyncio.create_task(body())
        await ticks(1)
        future.set_exception(KeyError("x"))
        task.cancel()
        await asyncio.wait([task])
        future.exception()
        return task.cancelled()

    assert run(main())


def test_a_request_while_it_runs_comes_at_the_next_wait(run: Run) -> None:
    """A task that cancels itself goes on until its next wait."""

    async def main() -> list[str]:
        ran: list[str] = []

        async def body() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel("myself")
            ran.append("before")
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError as error:
                ran.append(error.args[0])
                raise

        await asyncio.wait([asyncio.create_task(body())])
        return ran

    assert ["before", "myself"] == run(main())


def test_a_request_in_the_last_step_still_cancels(run: Run) -> None:
    """A task that cancels itself and returns is cancelled, and has no result."""

    async def main() -> bool:
        async def body() -> str:
            task = asyncio.current_task()
            assert task is not None
            task.cancel("late")
            return "result"

        task = asyncio.create_task(body())
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert ("late",) == caught.value.args
        return task.cancelled()

    assert run(main())


def test_task_that_swallows_the_request_goes_on(run: Run) -> None:
    """A task that catches its cancellation ends with its result, and keeps the count."""

    async def main() -> tuple[str, bool, int]:
        async def body() -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
            await asyncio.sleep(0)
            return "stayed"

        task = asyncio.create_task(body())
        await ticks(1)
        task.cancel()
        return await task, task.cancelled(), task.cancelling()

    assert ("stayed", False, 1) == run(main())


def test_an_ended_task_refuses(run: Run) -> None:
    """Cancelling a task that has ended does nothing and counts nothing."""

    async def main() -> tuple[bool, int]:
        task = asyncio.create_task(asyncio.sleep(0))
        await task
        return task.cancel(), task.cancelling()

    assert (False, 0) == run(main())


# Neither of the two tasks ever ends.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_waiting_for_each_other_in_a_circle(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    """Two native tasks that await each other can be cancelled; asyncio's raise RecursionError."""

    async def main() -> str:
        tasks: list[asyncio.Task[Any]] = []

        async def body(other: int) -> None:
            await tasks[other]

        tasks += [asyncio.create_task(body(1)), asyncio.create_task(body(0))]
        await ticks(2)
        try:
            tasks[0].cancel()
        except RecursionError:
            outcome = "refused"
        else:
            outcome = "cancelled"
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        tasks.clear()
        return outcome

    # Not with a runner: it would cancel the two again, and wait for them.
    expected = "cancelled" if kind == "native" else "refused"
    assert expected == loop.run_until_complete(main())


@pytest.mark.parametrize("inner_s", [0.01, 60.0])
def test_time_limits_nest(run: Run, inner_s: float) -> None:
    """The first of two nested timeouts to pass ends its own block and undoes its cancellation."""

    async def main() -> tuple[list[str], int]:
        ended = []
        try:
            async with asyncio.timeout(0.02 if inner_s > 1 else 60.0):
                try:
                    async with asyncio.timeout(inner_s):
                        await forever()
                except TimeoutError:
                    ended.append("inner")
        except TimeoutError:
            ended.append("outer")
        task = asyncio.current_task()
        assert task is not None
        return ended, task.cancelling()

    assert run(main()) == (["inner" if inner_s < 1 else "outer"], 0)


def test_a_limit_and_a_request_at_once(run: Run) -> None:
    """A task that is cancelled from outside in the tick in which its timeout passes is cancelled."""

    async def main() -> bool:
        async def body() -> None:
            try:
                async with asyncio.timeout(0):
                    await forever()
            except TimeoutError:
                pytest.fail("the cancellation from outside was taken for the timeout's")

        task = asyncio.create_task(body())
        await ticks(1)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert run(main())


def test_wait_for_waits_for_the_end(run: Run) -> None:
    """`wait_for` returns once the task that it has cancelled has cleaned up."""

    async def main() -> list[str]:
        ran: list[str] = []

        async def body() -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(0)
                ran.append("cleaned up")

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(body(), 0.01)
        return ran

    assert ["cleaned up"] == run(main())


def test_a_group_cancels_its_others(run: Run) -> None:
    """A failing task of a group cancels the others, and the parent's cancellation is taken back."""

    async def main() -> tuple[list[str], int]:
        ran: list[str] = []

        async def waits() -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                ran.append("cancelled")
                raise

        async def fails() -> None:
            await asyncio.sleep(0)
            raise KeyError("x")

        with pytest.raises(ExceptionGroup) as caught:
            await grouped(waits(), waits(), fails())
        assert [type(it) for it in caught.value.exceptions] == [KeyError]
        task = asyncio.current_task()
        assert task is not None
        return ran, task.cancelling()

    assert (["cancelled", "cancelled"], 0) == run(main())


def test_a_cancelled_gather_cancels_its_children(run: Run) -> None:
    """All gathered tasks are cancelled, and the awaiting task goes on once all have ended."""

    async def main() -> list[bool]:
        tasks = [asyncio.create_task(forever()) for _ in range(3)]
        gathered = asyncio.gather(*tasks)
        await ticks(1)
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        return [task.cancelled() for task in tasks]

    assert [True, True, True] == run(main())


def test_the_exception_is_the_coroutines_own(run: Run) -> None:
    """The first await raises the instance that the coroutine has raised; later ones do not."""

    async def main() -> list[bool]:
        raised: list[BaseException] = []

        async def body() -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                error = asyncio.CancelledError("my own")
                raised.append(error)
                raise error from None

        task = asyncio.create_task(body())
        await ticks(1)
        task.cancel()
        caught: list[BaseException] = []
        for _ in range(2):
            try:
                await task
            except asyncio.CancelledError as error:
                caught.append(error)
        return [caught[0] is raised[0], caught[1] is raised[0], caught[1] is caught[0]]

    assert [True, False, False] == run(main())
