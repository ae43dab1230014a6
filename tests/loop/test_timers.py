"""Timers fire in order, never before their time, and are forgotten once cancelled."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import pytest

from .harness import Run, threadlets_only, ticks


def test_timer_never_fires_before_its_time(run: Run) -> None:
    """In a timer's callback the loop's clock has reached the deadline."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for delay_s in (0.0, 1e-9, 1e-5, 0.001, 0.0105):
            fired: asyncio.Future[float] = loop.create_future()

            def fire(future: asyncio.Future[float] = fired) -> None:
                future.set_result(loop.time())

            handle = loop.call_later(delay_s, fire)
            assert handle.when() <= await fired

    run(main())


def test_timers_fire_by_deadline(run: Run) -> None:
    """Timers fire in the order of their deadlines, whatever the order in which they were started."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired: list[int] = []
        now = loop.time()
        for n in (3, 1, 4, 0, 2):
            loop.call_at(now + n / 1000, fired.append, n)
        last: asyncio.Future[None] = loop.create_future()
        loop.call_at(now + 0.005, last.set_result, None)
        await last
        assert [0, 1, 2, 3, 4] == fired

    run(main())


@threadlets_only
def test_equal_deadlines_fire_in_the_order_of_starting(run: Run) -> None:
    """Timers with equal deadlines fire in the order of starting; a heap alone shuffles them."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + 0.002
        fired: list[int] = []
        for n in range(100):
            loop.call_at(when, fired.append, n)
        last: asyncio.Future[None] = loop.create_future()
        loop.call_at(when, last.set_result, None)
        await last
        assert list(range(100)) == fired

    run(main())


def test_cancelled_timer_does_not_fire(run: Run) -> None:
    """A cancelled timer does not fire, and those around it do."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired: list[int] = []
        when = loop.time() + 0.001
        handles = [loop.call_at(when + n * 1e-6, fired.append, n) for n in range(50)]
        for handle in handles[::2]:
            handle.cancel()
        last: asyncio.Future[None] = loop.create_future()
        loop.call_at(when + 1e-3, last.set_result, None)
        await last
        assert list(range(1, 50, 2)) == fired

    run(main())


def test_timer_cancelled_by_one_that_is_due_with_it_does_not_fire(run: Run) -> None:
    """Of two timers that are due in one tick, the first can cancel the second."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired: list[str] = []
        now = loop.time()
        second = loop.call_at(now - 1, fired.append, "second")
        loop.call_at(now - 2, second.cancel)
        await ticks(3)
        assert [] == fired

    run(main())


def test_past_deadlines_fire_in_the_next_tick(run: Run) -> None:
    """A timer with a negative delay or a past deadline fires in the next tick."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired: list[str] = []
        loop.call_later(-5, fired.append, "later")
        loop.call_at(0, fired.append, "at")
        await ticks(2)
        assert ["at", "later"] == fired

    run(main())


def test_when_is_the_deadline_that_was_asked_for(run: Run) -> None:
    """`when()` gives back what `call_at` was given."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + 1000.25
        handle = loop.call_at(when, print)
        assert when == handle.when()
        handle.cancel()
        assert when == handle.when()

    run(main())


def test_time_is_the_monotonic_clock(run: Run) -> None:
    """`loop.time()` and `time.monotonic()` read the same clock."""

    async def main() -> None:
        before = time.monotonic()
        now = asyncio.get_running_loop().time()
        assert before <= now <= time.monotonic()

    run(main())


def test_no_delay_is_no_number(run: Run) -> None:
    """None is refused as a delay and as a deadline with TypeError."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with pytest.raises(TypeError):
            loop.call_later(None, print)
        with pytest.raises(TypeError):
            loop.call_at(None, print)

    run(main())


@threadlets_only
def test_timer_at_the_end_of_time_never_fires(run: Run) -> None:
    """An infinite delay is allowed; its timer neither fires nor keeps others from firing."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired: list[str] = []
        handle = loop.call_later(math.inf, fired.append, "fired")
        await asyncio.sleep(0.001)
        handle.cancel()
        assert [] == fired

    run(main())


@threadlets_only
def test_cancelled_timers_are_forgotten_at_once(run: Run) -> None:
    """The loop counts only the timers that wait, however many were cancelled."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        n_before = loop._counts()[1]
        handles = [loop.call_later(3600, print) for _ in range(10_000)]
        assert n_before + 10_000 == loop._counts()[1]
        for handle in handles:
            handle.cancel()
        assert n_before == loop._counts()[1]

    run(main())


def test_timer_handles_compare_by_deadline(run: Run) -> None:
    """Handles of timers compare and sort by their deadlines."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        late, early = loop.call_at(now + 60, int), loop.call_at(now + 30, int)
        assert early < late
        assert late >= early
        assert early != late
        assert [early, late] == sorted([late, early])
        assert 2 == len({early, late})
        early.cancel()
        late.cancel()

    run(main())


def test_timeout_ends_what_takes_too_long(run: Run) -> None:
    """`asyncio.timeout` cancels its block, and the loop goes on."""

    async def main() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        return await asyncio.wait_for(asyncio.sleep(0, "went on"), 1)

    assert "went on" == run(main())
