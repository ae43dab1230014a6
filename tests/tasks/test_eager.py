"""With `asyncio.eager_task_factory` the first step of a task runs inside of `create_task`."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
import threadlets

from .harness import Run, native_only

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks came with Python 3.12"
)


def test_an_eager_task_ends_at_once(run: Run) -> None:
    """A coroutine that does not wait has run before `create_task` returns."""

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        outer, seen = asyncio.current_task(), []

        async def body() -> str:
            seen.append(asyncio.current_task() is not outer)
            return "result"

        task = asyncio.create_task(body())
        return [task.done(), task.result(), *seen, asyncio.current_task() is outer]

    assert [True, "result", True, True] == run(main())


def test_an_eager_task_waits(run: Run) -> None:
    """An eager task that waits goes on in later ticks like any other."""

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        ran = []

        async def body() -> str:
            ran.append("first")
            await asyncio.sleep(0)
            ran.append("second")
            return "result"

        task = asyncio.create_task(body())
        assert task in asyncio.all_tasks()
        return [list(ran), task.done(), await task, ran]

    assert [["first"], False, "result", ["first", "second"]] == run(main())


def test_an_eager_task_fails(run: Run) -> None:
    """An exception in the first step is the task's, and is not raised where the task is made."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)

        async def body() -> None:
            raise KeyError("x")

        task = asyncio.create_task(body())
        assert task.done()
        return repr(task.exception())

    assert "KeyError('x')" == run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_eager_task_ends_the_loop(
    loop: asyncio.AbstractEventLoop, error: type[BaseException]
) -> None:
    """KeyboardInterrupt and SystemExit are raised where the task is made."""
    loop.set_task_factory(asyncio.eager_task_factory)
    caught = []

    async def body() -> None:
        raise error("x")

    async def main() -> None:
        try:
            await asyncio.create_task(body())
        except error as raised:
            caught.append(raised)

    loop.run_until_complete(main())
    assert 1 == len(caught)


def test_an_eager_task_nests(run: Run) -> None:
    """Each of several nested eager tasks is the current one while its own code runs."""

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        running: list[Any] = []

        def note() -> None:
            running.append(asyncio.current_task())

        async def body(depth: int) -> None:
            note()
            if depth:
                await asyncio.create_task(body(depth - 1), name=f"t{depth - 1}")
            note()
            await asyncio.sleep(0)
            note()

        await asyncio.create_task(body(2), name="t2")
        # Names are read afterwards: a task may get its name only after its first step.
        return [task.get_name() for task in running]

    assert ["t2", "t1", "t0", "t0", "t0", "t1", "t1", "t2", "t2"] == run(main())


@native_only
def test_an_eager_task_blocks_in_a_threadlet(run: Run) -> None:
    """After a call in an eager step has lost the role, each task is current in its own code."""

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        opened, outer = threading.Event(), asyncio.current_task()
        seen: list[Any] = []

        async def body() -> str:
            inner = asyncio.current_task()
            result = await threadlets.call(lambda: "opened" if opened.wait(10) else "late")
            seen.append(asyncio.current_task() is inner)
            return result

        loop.call_soon(opened.set)
        task = asyncio.create_task(body())
        return [asyncio.current_task() is outer, await task, *seen]

    assert [True, "opened", True] == run(main())
