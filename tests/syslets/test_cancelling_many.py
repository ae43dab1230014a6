"""Cancelling many runs at once: thousands of waits, and sweeps that are left early."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from threadlets import BufferPool, engine, sweep, syslet
from threadlets.atoms import buffer, openat, poll, recv, timeout
from waiting import eventually, wait_until

from .harness import within_deadline

Pair = Callable[..., tuple[socket.socket, socket.socket]]


@syslet
def _sleep(seconds):
    yield timeout(seconds)


@syslet
def _recv(fd):
    data = buffer(4096)
    n = yield recv(fd, data)
    return data[:n]


@syslet
def _poll(fd):
    yield poll(fd, select.POLLIN)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def _nothing_is_under_way() -> bool:
    return 0 == engine().in_flight


def test_ten_thousand_time_outs_are_cancelled_at_once(clocked_engine: str) -> None:
    """Ten thousand cancelled time-outs end within ten seconds, and leave no run in flight."""

    async def main() -> None:
        tasks = [asyncio.create_task(_sleep(1000)) for _ in range(10_000)]
        await eventually(lambda: engine().in_flight == len(tasks))
        started = time.monotonic()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert time.monotonic() - started < 10
        assert all(task.cancelled() for task in tasks)
        assert _nothing_is_under_way()

    within_deadline(main())


def test_two_thousand_receives_are_cancelled_at_once(engine_kind: str, pair: Pair) -> None:
    """Two thousand cancelled receives on 50 sockets end within ten seconds, and hold no buffer."""
    ends = [pair()[0] for _ in range(50)]

    async def main() -> None:
        tasks = [asyncio.create_task(_recv(ends[i % 50])) for i in range(2000)]
        await eventually(lambda: engine().in_flight == len(tasks))
        started = time.monotonic()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert time.monotonic() - started < 10
        assert all(task.cancelled() for task in tasks)
        assert 0 == BufferPool.default().in_use

    within_deadline(main())


def test_ten_thousand_polls_end_at_once(engine_kind: str, pair: Pair) -> None:
    """More polls of one socket end together than the kernel's queue has room for."""
    one, other = pair()

    async def main() -> None:
        tasks = [asyncio.create_task(_poll(one)) for _ in range(10_000)]
        await eventually(lambda: engine().in_flight == len(tasks))
        other.send(b"x")
        await asyncio.wait(tasks)
        assert all(task.result().ok for task in tasks)

    within_deadline(main())


def test_left_sweep_cancels_the_rest(clocked_engine: str) -> None:
    """A break, close(), an exception, and inputs that raise each cancel the runs in flight."""

    def inputs() -> Iterator[float]:
        yield from (0, 1000, 1000)
        raise KeyError("inputs")

    for _ in sweep(_sleep, [0, 1000, 1000], ordered=False):
        break
    wait_until(_nothing_is_under_way)

    swept = sweep(_sleep, [0, 1000, 1000], ordered=False)
    next(swept)
    swept.close()
    wait_until(_nothing_is_under_way)
    assert len(list(swept)) <= 2, "it took more inputs"

    def fail() -> None:
        with sweep(_sleep, [0, 1000], ordered=False) as swept:
            for _ in swept:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    wait_until(_nothing_is_under_way)

    swept = sweep(_sleep, inputs(), ordered=False)
    assert next(swept).ok
    del swept
    wait_until(_nothing_is_under_way)


def test_left_sweep_closes_the_descriptors_that_were_not_taken(engine_kind: str) -> None:
    """Untaken results of a sweep that is left hold no descriptor."""

    @syslet
    def opening(path):
        fd = yield openat(path)
        return fd

    for ordered in (True, False):
        with sweep(opening, ["/dev/null"] * 50, depth=16, ordered=ordered) as swept:
            os.close(next(swept).unwrap())
        del swept
        gc.collect()
        wait_until(_nothing_is_under_way)


def test_cancelled_task_leaves_its_sweep(clocked_engine: str) -> None:
    """Cancelling an `async for` over a sweep ends its runs."""

    async def main() -> None:
        async def consumer() -> None:
            async for _ in sweep(_sleep, [1000] * 100):
                pass

        task = asyncio.create_task(consumer())
        await eventually(lambda: engine().in_flight == 100)
        await _cancel(task)
        del task
        gc.collect()
        await eventually(_nothing_is_under_way)

    within_deadline(main())
