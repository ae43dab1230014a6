"""The engine of the process: what it is, and what a fork leaves of it."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from threadlets._core import engine_info, forget_engine, uring_features


class Engine(NamedTuple):
    """What carries on the programs that would block."""

    kind: Literal["uring", "workers", "sim"]
    """io_uring, worker threads, or the simulation of `threadlets.testing`."""
    threads: int
    """How many threads it may have; they start when they are needed."""
    in_flight: int
    """How many programs it has in its hands."""
    note: str | None
    """Why it is not io_uring, and what can be done about that; how many of its threads have failed.
    None if it is, and none has."""
    features: tuple[str, ...] = ()
    """What io_uring is used with beside the least that suffices, by the kernel's names; nothing before
    Linux 6.1."""


def engine() -> Engine:
    """Say which engine carries on what would block; it is chosen at first use.

    io_uring is taken where it works, worker threads elsewhere: the results are the same. The
    environment variable THREADLETS_ENGINE (`uring` or `workers`) decides instead, and is read before
    io_uring is tried.

    Raises:
        ValueError: THREADLETS_ENGINE is something else.
        OSError: it is `uring`, which does not work here; the message says why, and what helps.
    """
    kind, threads, in_flight, note = engine_info()
    features = tuple(uring_features()) if kind == "uring" else ()
    return Engine(kind, threads, in_flight, note, features)


os.register_at_fork(after_in_child=forget_engine)
