"""`threadlets.run`, `threadlets.new_event_loop`, and asyncio's Runner with it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator
from typing import Any

import pytest
import threadlets

from .harness import Run, ticks


async def the_loop() -> asyncio.AbstractEventLoop:
    """Return the running loop."""
    return asyncio.get_running_loop()


def test_run_returns_the_result() -> None:
    """`run` runs its coroutine on a threadlets.Loop and closes the loop."""
    loop = threadlets.run(the_loop())
    assert isinstance(loop, threadlets.Loop)
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert loop.is_closed()


def test_run_raises_what_main_raises() -> None:
    """`run` raises the exception of its main coroutine."""

    async def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threadlets.run(main())


@pytest.mark.parametrize("debug", [True, False])
def test_run_sets_debug_mode(debug: bool) -> None:
    """`debug=` sets the loop's debug mode."""

    async def main() -> bool:
        return asyncio.get_running_loop().get_debug()

    assert debug is threadlets.run(main(), debug=debug)


def test_run_inside_a_running_loop_is_refused() -> None:
    """A `run` inside a running loop raises RuntimeError and does not run its coroutine."""

    async def main() -> None:
        coroutine = ticks(1)
        with pytest.raises(RuntimeError):
            threadlets.run(coroutine)
        coroutine.close()

    threadlets.run(main())


@pytest.mark.parametrize("entry_point", [asyncio.run, threadlets.run])
def test_run_refuses_what_is_no_coroutine(entry_point: Callable[..., Any]) -> None:
    """Only coroutines can be run; since CPython 3.14 any awaitable can."""
    error = ValueError if sys.version_info < (3, 14) else TypeError
    for wrong in (ticks, None):
        with pytest.raises(error, match="coroutine"):
            entry_point(wrong)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="this Python runs only coroutines")
@pytest.mark.parametrize("entry_point", [asyncio.run, threadlets.run])
def test_whatever_can_be_awaited_is_run(entry_point: Callable[..., Any]) -> None:
    """An awaitable is awaited in a task, and its result is returned."""

    class Awaitable:
        def __await__(self) -> Generator[Any, None, Any]:
            yield from asyncio.sleep(0).__await__()
            return asyncio.current_task()

    task = entry_point(Awaitable())
    assert isinstance(task, asyncio.Task)
    assert task.done()


def test_tasks_that_are_left_are_cancelled(run: Run) -> None:
    """Tasks that still wait at the end of a run are cancelled and clean up."""
    cleaned: list[str] = []

    async def wait_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("cleaned up")

    async def main() -> None:
        tasks.append(asyncio.create_task(wait_for_ever()))
        await ticks(1)

    tasks: list[asyncio.Task[None]] = []
    run(main())
    assert ["cleaned up"] == cleaned
    assert tasks[0].cancelled()


def test_runner_keeps_its_loop_between_runs() -> None:
    """A Runner's loop lives until the Runner is closed."""
    with asyncio.Runner(loop_factory=threadlets.new_event_loop) as runner:
        first = runner.run(the_loop())
        assert first is runner.run(the_loop()) is runner.get_loop()
        assert not first.is_closed()
    assert first.is_closed()


def test_loop_can_be_made_by_its_class() -> None:
    """`threadlets.Loop()` makes a loop, and its subclasses may take arguments of their own."""

    class Named(threadlets.Loop):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    loop = Named("mine")
    assert loop is loop.run_until_complete(the_loop())
    assert "mine" == loop.name
    loop.close()


def test_task_factory_makes_the_tasks(run: Run) -> None:
    """Each task is made by the factory that `set_task_factory` has set."""

    class Own(asyncio.Task[Any]):
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **options: Own(coro, loop=loop, **options))
        task = asyncio.create_task(ticks(1))
        await task
        assert isinstance(task, Own)

    run(main())
