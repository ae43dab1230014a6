"""A task whose awaits are all done at once, and syslets for it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import threadlets
from threadlets import syslet
from threadlets.atoms import buffer, close, nop, openat, read

FAILED_AFTER_S = 5.0
"""Seconds after which `until` fails if the others have not run."""

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
    """Await `once`, which is done at once each time, until others have made `is_over` true."""
    failed_at = time.monotonic() + FAILED_AFTER_S
    while not is_over():
        assert time.monotonic() < failed_at, "no other task has run"
        await once()


async def call() -> None:
    """Await a call of a function that does nothing."""
    await threadlets.call(int)
