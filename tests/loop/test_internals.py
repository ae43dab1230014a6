"""Internals of the loop that programs read or replace behave alike on both loops."""

from __future__ import annotations

import asyncio
import collections
import functools
import heapq
import itertools
import os
import random
import selectors
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import threadlets
from waiting import eventually

from .harness import (
    LoopFactory,
    Recorder,
    Run,
    connected,
    pipe,
    socket_pair,
    threadlets_only,
    ticks,
)

#: Longer than any test waits: waiting for it in real time misses the deadline.
LONG_S = 1000.0


class VirtualClock:
    """A clock that advances by the time-out when the loop would wait."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def select(self, original: Any, timeout: float | None) -> Any:
        found = original(0)
        if not found:
            assert timeout is not None, "nothing is due"
            self.now += timeout
        return found


def class_of(loop_factory: LoopFactory) -> Any:
    """Return the class of the loops that the factory makes."""
    loop = loop_factory()
    loop.close()
    return type(loop)


@contextmanager
def virtual(loop: Any, now: float = 0.0) -> Iterator[VirtualClock]:
    """Give a loop a virtual clock, as aiotools does."""
    clock = VirtualClock(now)
    select = functools.partial(clock.select, loop._selector.select)
    with (
        mock.patch.object(loop._selector, "select", select),
        mock.patch.object(loop, "_clock_resolution", 0.001),
        mock.patch.object(loop, "time", clock.time),
    ):
        yield clock


@pytest.fixture
def run_timeless(loop_factory: LoopFactory) -> Run:
    """Run a coroutine without a deadline, which the virtual clock would reach."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(main)

    return run


@pytest.mark.parametrize("start", [0.0, 1e9])
@pytest.mark.parametrize("debug", [False, True])
def test_timers_obey_a_clock_that_is_put_on_the_loop(
    run_timeless: Run, start: float, debug: bool
) -> None:
    """Timers, timeouts and sleeps fire in order and at their virtual time, without any real wait."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        order: list[Any] = []
        with virtual(loop, start) as clock:
            loop.call_later(LONG_S, order.append, "last")
            loop.call_at(start + 2, lambda: order.append(round(clock.now - start, 3)))
            loop.call_later(1, order.append, "never").cancel()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10):
                    await asyncio.sleep(LONG_S)
            assert 10 == round(loop.time() - start, 3)
            await asyncio.sleep(LONG_S)
            assert [2, "last"] == order
            assert LONG_S + 10 == round(clock.now - start)
        before = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - before >= 0.01
        assert abs(loop.time() - time.monotonic()) < 1

    run_timeless(main())


@threadlets_only
def test_our_own_sleeps_and_deadlines_obey_the_clock(run_timeless: Run) -> None:
    """`threadlets.sleep` and the deadlines of scopes follow the clock as well."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with virtual(loop) as clock:
            await threadlets.sleep(LONG_S)
            assert LONG_S == round(clock.now)
            with pytest.raises(TimeoutError):
                async with threadlets.Scope(timeout=LONG_S):
                    await asyncio.sleep(2 * LONG_S)
            assert 2 * LONG_S == round(clock.now)

    run_timeless(main())


@threadlets_only
def test_threadlets_block_beside_a_poll_that_is_replaced(run: Run) -> None:
    """The role is taken over while a function blocks, and comes back; results arrive."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        n_polls = itertools.count()
        select = loop._selector.select
        loop._selector.select = lambda timeout: (next(n_polls), select(timeout))[1]
        gate = threading.Event()
        task = asyncio.create_task(threadlets.call(gate.wait))
        await eventually(lambda: threadlets.stats()["blocked"])
        gate.set()
        assert await task
        assert 3 == await asyncio.to_thread(lambda: 3)
        assert next(n_polls) > 2

    run(main())


@pytest.mark.parametrize("how", ["subclass", "class"])
def test_time_of_a_derived_class_is_the_loops(loop_factory: LoopFactory, how: str) -> None:
    """The loop uses the `time` of a subclass, also if it gets the class later, as with looptime."""
    base = class_of(loop_factory)

    class Loop(base):  # type: ignore[misc, valid-type]
        started = time.monotonic()

        def time(self) -> float:
            # A thousand times as fast as real time.
            return (super().time() - self.started) * 1000

    if how == "subclass":
        loop = Loop()
    else:
        loop = loop_factory()
        loop.__class__ = Loop
    before = time.monotonic()
    selector = loop._selector
    select = selector.select
    selector.select = lambda timeout: select(timeout and timeout / 1000)
    try:
        loop.run_until_complete(asyncio.sleep(100))
    finally:
        loop.close()
    assert 0.1 <= time.monotonic() - before < 5


def test_clock_that_stands_still_is_moved_by_hand(run_timeless: Run) -> None:
    """`_scheduled` says which timer is next, as asynctest's ClockedTestCase needs it."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        now = 0.0
        loop.time = lambda: now
        try:
            fired: list[int] = []
            for seconds in (3, 1, 2):
                loop.call_later(seconds, fired.append, seconds)
            assert [1, 2, 3] == [it._when for it in sorted(loop._scheduled)][:3]
            for expected in (1, 2, 3):
                now = loop._scheduled[0]._when
                assert expected == now
                await ticks(3)
                assert fired == [1, 2, 3][:expected]
        finally:
            del loop.time

    run_timeless(main())


def test_select_is_told_how_long_there_is_to_wait(run: Run) -> None:
    """`select` gets None where only an event can bring work, and zero where something is ready."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        asked: list[float | None] = []
        select = loop._selector.select

        def note(timeout: float | None) -> Any:
            asked.append(timeout)
            return select(timeout)

        with mock.patch.object(loop._selector, "select", note):
            await ticks(2)
            assert 0 == asked[-1]
            with socket_pair() as (ours, theirs):
                receiving = asyncio.create_task(loop.sock_recv(ours, 10))
                await ticks(2)
                loop.call_later(0.02, theirs.send, b"data")
                assert b"data" == await receiving
        assert any(it is not None and 0 < it <= 0.02 for it in asked)
        n_asked = len(asked)
        await ticks(2)
        assert len(asked) == n_asked

    run(main())


def test_select_refuses_a_time_that_is_no_number(run: Run) -> None:
    """`select` raises ValueError for NaN, where it could only wait for ever or not at all."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with pytest.raises(ValueError, match="NaN"):
            loop._selector.select(float("nan"))
        await ticks(1)

    run(main())


def test_select_says_what_has_become_ready(run: Run) -> None:
    """`select` returns descriptors with their masks; another thread's wake-up is an event, too."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        found: list[Any] = []
        select = loop._selector.select

        def note(timeout: float | None) -> Any:
            ready = select(timeout)
            found.extend((key.fd, mask) for key, mask in ready)
            return ready

        loop._selector.select = note
        with pipe() as (reading, writing):
            readable = asyncio.Event()
            loop.add_reader(reading, readable.set)
            os.write(writing, b"x")
            await readable.wait()
            loop.remove_reader(reading)
            assert (reading, selectors.EVENT_READ) in found
        async with connected(Recorder) as connection:
            connection.peer.send(b"data")
            await connection.protocol.receive(4)
            fd = connection.transport.get_extra_info("socket").fileno()
            assert any(it == fd and mask & selectors.EVENT_READ for it, mask in found)
        found.clear()
        woken = asyncio.Event()
        timer = threading.Timer(0.02, loop.call_soon_threadsafe, (woken.set,))
        timer.start()
        await woken.wait()
        timer.join()
        assert found
        del loop._selector.select

    run(main())


def test_wake_up_between_the_look_and_the_wait_is_not_lost(run: Run) -> None:
    """A wrapper of `select` may let other threads run before it waits."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        select = loop._selector.select
        woken = asyncio.Event()

        def interrupted(timeout: float | None) -> Any:
            if timeout != 0 and not woken.is_set():
                thread = threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set,))
                thread.start()
                thread.join()
            return select(timeout)

        with mock.patch.object(loop._selector, "select", interrupted):
            await woken.wait()

    run(main())


def test_selector_that_wraps_the_loops_own_can_take_its_place(run: Run) -> None:
    """A wrapper of `_selector`, as instrumentation uses it, forwards everything but `select`."""

    class Counting:
        def __init__(self, selector: Any) -> None:
            self.selector = selector
            self.n_polls = 0

        def select(self, timeout: float | None) -> Any:
            self.n_polls += 1
            return self.selector.select(timeout)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.selector, name)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        own = loop._selector
        loop._selector = counting = Counting(own)
        await asyncio.sleep(0.01)
        assert counting.n_polls > 0
        with socket_pair() as (ours, theirs):
            theirs.send(b"data")
            assert b"data" == await loop.sock_recv(ours, 10)
        loop._selector = own

    run(main())


@threadlets_only
def test_what_cannot_take_a_place_is_refused(run: Run) -> None:
    """A replacement that cannot work is refused at once, with reason and remedy; the loop goes on."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with (
            selectors.DefaultSelector() as selector,
            pytest.raises(TypeError, match=r"native poller.*wrap loop\._selector"),
        ):
            loop._selector = selector
        with pytest.raises(TypeError, match=r"ready queue is native.*SelectorEventLoop"):
            loop._ready = {}
        with pytest.raises(TypeError, match="list of timers is native"):
            loop._scheduled = ()
        with pytest.raises(TypeError, match=r"not a handle; use loop\.call_soon"):
            loop._ready.append(print)
        with pytest.raises(RuntimeError, match=r"loop.add_reader\(\)"):
            loop._selector.register(0, selectors.EVENT_READ)
        await asyncio.sleep(0.001)

    run(main())


def test_what_is_ready_and_scheduled_is_seen(run: Run) -> None:
    """`_ready` and `_scheduled` give their lengths and entries, and a timer's entry its deadline."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        n_ready, n_timers = len(loop._ready), len(loop._scheduled)
        first = loop.call_soon(print, "soon")
        later = loop.call_later(LONG_S, print, "later")
        assert len(loop._ready) == n_ready + 1
        assert loop._ready[-1] is first
        assert first in loop._ready
        assert len(loop._scheduled) == n_timers + 1
        assert later in loop._scheduled
        assert later._when == later.when()
        first.cancel()
        later.cancel()
        task = asyncio.create_task(asyncio.sleep(0))
        assert len(loop._ready) >= n_ready + 1
        assert list(loop._ready)
        await task
        while loop._ready:  # As asynctest's exhaust_callbacks() does.
            await asyncio.sleep(0)

    run(main())


def test_ready_queue_can_be_reordered(run: Run) -> None:
    """Callbacks run in the order that `_ready` was given, each once."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        order: list[int] = []
        tasks = []

        async def note(number: int) -> None:
            order.append(number)

        for number in range(20):
            if number % 2:
                tasks.append(asyncio.create_task(note(number)))
            else:
                loop.call_soon(order.append, number)
        random.Random(3).shuffle(loop._ready)
        await ticks(2)
        assert order != list(range(20))
        assert list(range(20)) == sorted(order)
        order.clear()
        for number in range(4):
            loop.call_soon(order.append, number)
        loop._ready.rotate(1)
        loop._ready.appendleft(loop._ready.pop())
        del loop._ready[1]
        loop._ready.append(loop._ready.popleft())
        await ticks(2)
        assert [1, 2] == order or 3 == len(order)
        loop._ready = collections.deque(loop._ready)
        loop.call_soon(order.append, "dropped")
        loop._ready.pop()
        await ticks(2)
        assert "dropped" not in order

    run(main())


def test_list_of_timers_can_be_changed(run: Run) -> None:
    """Operations of `heapq` on `_scheduled` change the timers."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        fired: list[str] = []
        loop.call_later(0.01, fired.append, "first")
        kept = loop.call_later(0.02, fired.append, "second")
        timers = loop._scheduled
        assert heapq.heappop(timers)._when < kept.when()
        pushed = asyncio.TimerHandle(loop.time() + 0.015, fired.append, ("pushed",), loop)
        heapq.heappush(timers, pushed)
        pushed._scheduled = True
        await asyncio.sleep(0.03)
        assert ["pushed", "second"] == fired
        now = loop.call_later(LONG_S, fired.append, "now")
        loop._scheduled.remove(now)
        loop._ready.append(now)
        await ticks(2)
        assert "now" == fired[-1]

    run(main())


def test_call_soon_on_the_loop_sees_every_step(run: Run) -> None:
    """Callbacks and tasks that are made after `call_soon` was replaced go through the replacement."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        seen = []
        original = loop.call_soon

        def call_soon(callback: Any, *args: Any, context: Any = None) -> Any:
            seen.append(callback)
            return original(callback, *args, context=context)

        loop.call_soon = call_soon
        future = loop.create_future()
        future.add_done_callback(print_nothing)
        future.set_result(None)
        await asyncio.create_task(asyncio.sleep(0))
        del loop.call_soon
        assert print_nothing in seen
        assert len(seen) >= 3
        n_seen = len(seen)
        await asyncio.create_task(asyncio.sleep(0))
        assert len(seen) <= n_seen + 1

    run(main())


def print_nothing(*_: Any) -> None:
    """Stand for a callback."""


def test_call_later_goes_through_a_call_at_that_is_replaced(run: Run) -> None:
    """`call_later` calls the `call_at` that is on the loop."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        original, seen = loop.call_at, []

        def call_at(when: float, callback: Any, *args: Any, context: Any = None) -> Any:
            seen.append(when)
            return original(when, callback, *args, context=context)

        loop.call_at = call_at
        await asyncio.sleep(0.001)
        del loop.call_at
        assert 1 == len(seen)

    run(main())


@pytest.mark.parametrize("where", ["class", "loop", "while it runs"])
def test_replaced_run_once_makes_the_ticks(loop_factory: LoopFactory, where: str) -> None:
    """A replaced `_run_once` is called for each tick, and may call the loop's own."""
    base = class_of(loop_factory)
    n_ticks = 0

    def run_once(loop: Any) -> None:
        nonlocal n_ticks
        n_ticks += 1
        base._run_once(loop)

    loop: Any = type("Loop", (base,), {"_run_once": run_once} if where == "class" else {})()

    async def main() -> str:
        if where == "while it runs":
            loop._run_once = functools.partial(run_once, loop)
        await asyncio.sleep(0.001)
        for _ in range(3):
            await asyncio.sleep(0)
        return "done"

    if where == "loop":
        loop._run_once = functools.partial(run_once, loop)
    try:
        assert "done" == loop.run_until_complete(main())
        assert n_ticks >= 4
        loop.call_soon(loop.stop)
        loop.run_forever()
    finally:
        loop.close()


def test_closed_loops_insides_are_empty(loop_factory: LoopFactory) -> None:
    """The internals of a closed loop are empty, and can still be read."""
    loop: Any = loop_factory()
    loop.call_soon(print)
    loop.call_later(LONG_S, print)
    loop.close()
    assert not loop._ready
    assert not loop._scheduled
