"""Nested ticks, made in the middle of a step from the loop's internals alone, work on both loops."""

from __future__ import annotations

import asyncio
import heapq
import sys
import time
from typing import Any

import pytest

from .harness import Recorder, Run, connected


def nested_turn(loop: Any) -> None:
    """Run one tick as nested loops do, with the loop's internals alone."""
    ready, scheduled = loop._ready, loop._scheduled
    while scheduled and scheduled[0]._cancelled:
        heapq.heappop(scheduled)
    timeout = None
    if ready or loop._stopping:
        timeout = 0
    elif scheduled:
        timeout = max(scheduled[0]._when - loop.time(), 0)
    loop._process_events(loop._selector.select(timeout))
    while scheduled and scheduled[0]._when < loop.time() + loop._clock_resolution:
        ready.append(heapq.heappop(scheduled))
    for _ in range(len(ready)):
        if not ready:
            break
        handle = ready.popleft()
        if not handle._cancelled:
            current = _replace_current_task(loop, None)
            try:
                handle._run()
            finally:
                _replace_current_task(loop, current)


def _replace_current_task(loop: Any, task: Any) -> Any:
    """Set another current task, or none, and return the one before."""
    if sys.version_info >= (3, 12):
        return asyncio.tasks._swap_current_task(loop, task)
    before = asyncio.tasks._current_tasks.pop(loop, None)
    if task is not None:
        asyncio.tasks._current_tasks[loop] = task
    return before


@pytest.mark.parametrize("debug", [False, True])
def test_ticks_can_be_run_in_the_middle_of_a_step(run: Run, debug: bool) -> None:
    """Tasks, timers, readers and connections go on; the task that makes the ticks stays current."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_debug(debug)
        done: list[Any] = []

        async def works() -> None:
            await asyncio.sleep(0.001)
            async with connected(Recorder) as connection:
                connection.peer.send(b"data")
                done.append(await connection.protocol.receive(4))
                me = asyncio.current_task()
                assert me is not None
                done.append(me.get_name())

        task = asyncio.create_task(works(), name="inner")
        loop.call_later(0.002, done.append, "timer")
        outer = asyncio.current_task()
        deadline = time.monotonic() + 5
        while not task.done() or "timer" not in done:
            nested_turn(loop)
            assert asyncio.current_task() is outer
            assert time.monotonic() < deadline
        assert {b"data", "inner", "timer"} == set(done)
        await asyncio.sleep(0)

    run(main())
