"""Internals of the loop that fail, are read by other threads, or must agree to the last bit."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import threadlets

from .harness import LoopFactory, Run, threadlets_only

#: Longer than any test waits.
LONG_S = 1000.0


@threadlets_only
@pytest.mark.parametrize("what", ["select", "time"])
def test_poll_that_fails_while_the_home_thread_is_blocked_ends_the_loop(
    loop_factory: LoopFactory, what: str
) -> None:
    """The exception ends the loop once the function has returned: only the home thread can end it."""

    class TimeIsOver(Exception):
        pass

    loop = loop_factory()
    fails = threading.Event()
    original = loop._selector.select if what == "select" else loop.time

    def replaced(*args: Any) -> Any:
        if fails.is_set():
            raise TimeIsOver
        return original(*args)

    def block() -> None:
        fails.set()
        time.sleep(0.05)

    async def main() -> None:
        setattr(loop._selector if what == "select" else loop, what, replaced)
        await asyncio.sleep(0)
        await threadlets.call(block)
        await asyncio.Event().wait()

    task = loop.create_task(main())
    with pytest.raises(TimeIsOver):
        loop.run_until_complete(task)
    fails.clear()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


def test_timers_can_be_looked_at_from_another_thread(run: Run) -> None:
    """Another thread can read `_scheduled` while the loop runs timers."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        is_over, n_looks, failures = threading.Event(), 0, []

        def look() -> None:
            nonlocal n_looks
            while not is_over.is_set():
                try:
                    n_looks += len(loop._scheduled) > 0
                except Exception as error:
                    failures.append(error)
                    return

        looking = threading.Thread(target=look)
        looking.start()
        while n_looks < 100 and not failures:
            handle = loop.call_later(LONG_S, print)
            await asyncio.sleep(0)
            handle.cancel()
        is_over.set()
        looking.join()
        assert [] == failures

    run(main())


@threadlets_only
def test_timer_that_was_run_by_hand_is_not_scheduled(run: Run) -> None:
    """A timer whose handle was run by hand has fired, and is not in `_scheduled` any more."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        calls: list[int] = []
        handle = loop.call_later(LONG_S, calls.append, 1)
        assert handle in loop._scheduled
        handle._run()
        handle.cancel()
        assert ([1], False) == (calls, handle in loop._scheduled)

    run(main())


def test_virtual_clock_is_where_the_timer_is(loop_factory: LoopFactory) -> None:
    """A clock that advances by the time-outs of `select` reaches each deadline to the last bit."""
    loop: Any = loop_factory()
    original = loop._selector.select
    now = 0.0

    def select(timeout: float | None) -> Any:
        nonlocal now
        if timeout:
            now += timeout
        return original(0)

    loop.time = lambda: now
    loop._selector.select = select

    async def main() -> None:
        for seconds in (0.1, 0.2, 1 / 3, 1e-3, 7.7):
            when = now + seconds
            await asyncio.sleep(seconds)
            assert now >= when

    try:
        loop.run_until_complete(main())
        expected = 0.0
        for seconds in (0.1, 0.2, 1 / 3, 1e-3, 7.7):
            expected += seconds
        assert expected == pytest.approx(now, abs=1e-12)
    finally:
        loop.close()
