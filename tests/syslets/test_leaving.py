"""Leaving a sweep early: by a break, an exception, a cancellation; the rest ends."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from threadlets import engine, sweep, syslet
from threadlets.atoms import openat, timeout

from .harness import until, until_async, within_deadline


@syslet
def _sleep(seconds):
    yield timeout(seconds)


def _nothing_is_under_way() -> bool:
    return 0 == engine().in_flight


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_left_sweep_cancels_the_rest(clocked_engine: str) -> None:
    """By a break, close(), an exception, or inputs that raise."""

    def inputs() -> Iterator[float]:
        yield from (0, 1000, 1000)
        raise KeyError("inputs")

    for _ in sweep(_sleep, [0, 1000, 1000], ordered=False):
        break
    until(_nothing_is_under_way)

    swept = sweep(_sleep, [0, 1000, 1000], ordered=False)
    next(swept)
    swept.close()
    until(_nothing_is_under_way)
    assert len(list(swept)) <= 2, "it took more inputs"

    def fail() -> None:
        with sweep(_sleep, [0, 1000], ordered=False) as swept:
            for _ in swept:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    until(_nothing_is_under_way)

    swept = sweep(_sleep, inputs(), ordered=False)
    assert next(swept).ok
    del swept
    until(_nothing_is_under_way)


def test_left_sweep_closes_the_descriptors_that_nobody_got(engine_kind: str) -> None:
    """Results that were made and not taken hold none."""

    @syslet
    def opening(path):
        fd = yield openat(path)
        return fd

    for ordered in (True, False):
        with sweep(opening, ["/dev/null"] * 50, depth=16, ordered=ordered) as swept:
            os.close(next(swept).unwrap())
        del swept
        gc.collect()
        until(_nothing_is_under_way)


def test_cancelled_task_leaves_its_sweep(clocked_engine: str) -> None:
    """An `async for` that is cancelled ends the runs."""

    async def main() -> None:
        async def consumer() -> None:
            async for _ in sweep(_sleep, [1000] * 100):
                pass

        task = asyncio.create_task(consumer())
        await until_async(lambda: engine().in_flight == 100)
        await _cancel(task)
        del task
        gc.collect()
        await until_async(_nothing_is_under_way)

    within_deadline(main())
