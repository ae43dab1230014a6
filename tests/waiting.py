"""Waits until a condition holds that another task, thread or process brings about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

_DEADLINE_S = 30.0


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, while the loop goes on."""
    for pause_s in _pauses_s(condition):
        await asyncio.sleep(pause_s)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait on this thread until a condition holds."""
    for pause_s in _pauses_s(condition):
        time.sleep(pause_s)


def _pauses_s(condition: Callable[[], object]) -> Iterator[float]:
    deadline_s = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not hold by the deadline"
        yield 0.001
