"""Programs on an engine of one's choice, a seeded simulation among them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from threadlets import _core
from threadlets.syslets import engine  # noqa: F401 - it tells the engine of forks


@contextlib.contextmanager
def use_engine(
    kind: Literal["uring", "workers", "sim"],
    *,
    threads: int | None = None,
    seed: int = 0,
    error_rate: float = 0.0,
    short_rate: float = 0.0,
) -> Iterator[None]:
    """Have programs carried on by this engine for as long as the block lasts.

    The simulation makes the same system calls, one at a time, in an order that `seed` decides; its
    clock stands still while there is anything to do, and then jumps to the next time-out. An
    `error_rate` of its operations fails, and a `short_rate` of its transfers moves less than it
    could. Programs that are under way when the block begins or ends are cancelled.

    Raises:
        OSError: `uring` does not work here.
        ValueError: there is no such engine, or a rate is not between 0 and 1.
    """
    for name, rate in (("error_rate", error_rate), ("short_rate", short_rate)):
        if not 0 <= rate <= 1:
            raise ValueError(f"{name} is {rate}; it is a share, from 0 to 1")
    _core.use_engine(kind, threads, seed, error_rate, short_rate)
    try:
        yield
    finally:
        _core.use_engine(None)
