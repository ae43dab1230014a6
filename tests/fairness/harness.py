"""A task that awaits what is done at once, over and over; and programs for it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import threadlets
from threadlets import syslet
from threadlets.atoms import buffer, close, nop, openat, read

FAILED_AFTER_S = 5.0
"""How long a task goes on that gives nobody a turn."""

Once = Callable[[], Awaitable[Any]]


@syslet
def read_head(path: Any) -> Any:
    fd = yield openat(path)
    data = buffer(16)
    n = yield read(fd, data)
    yield close(fd)
    return data[:n]


@syslet
def nothing() -> Any:
    yield nop()


async def until(is_over: Callable[[], bool], once: Once) -> None:
    """Await over and over what is done at once, until others have brought something about."""
    failed_at = time.monotonic() + FAILED_AFTER_S
    while not is_over():
        assert time.monotonic() < failed_at, "nobody else had a turn"
        await once()


async def call() -> None:
    """Await a call of a function that does nothing."""
    await threadlets.call(int)
