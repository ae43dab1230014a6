"""Choice of the engine that carries on programs; one of them is a seeded simulation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import threadlets._syslets  # noqa: F401 - registers the engine's hook for forks
from threadlets import _core
from threadlets._public import set_module


@set_module("threadlets.testing")
@contextlib.contextmanager
def use_engine(
    kind: Literal["uring", "workers", "sim"],
    *,
    threads: int | None = None,
    seed: int = 0,
    error_rate: float = 0.0,
    short_rate: float = 0.0,
) -> Iterator[None]:
    """Use this engine for all programs for the length of the block.

    The simulation makes the same system calls, one at a time, in an order that `seed` decides; its
    clock stands still while there is anything to do, and then jumps to the next timeout. It fails
    operations with the probability `error_rate`, and cuts transfers short with the probability
    `short_rate`. Runs in flight when the block begins or ends are cancelled.

    Raises:
        OSError: `uring` does not work here.
        ValueError: there is no such engine, or a rate is not between 0 and 1.
    """
    for name, rate in (("error_rate", error_rate), ("short_rate", short_rate)):
        if not 0 <= rate <= 1:
            raise ValueError(f"{name} is {rate}; it is a probability, from 0 to 1")
    _core.use_engine(kind, threads, seed, error_rate, short_rate)
    try:
        yield
    finally:
        _core.use_engine(None)
