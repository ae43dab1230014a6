"""Description of the process's engine."""

from typing import Literal, NamedTuple

from threadlets._core import engine_info, uring_features
from threadlets._public import set_module


@set_module("threadlets")
class Engine(NamedTuple):
    """Description of the engine, which carries on runs that would block."""

    kind: Literal["uring", "workers", "sim"]
    """io_uring, worker threads, or the simulation of `threadlets.testing`."""
    threads: int
    """The most threads that it may have; they start when they are needed."""
    in_flight: int
    """Number of runs in flight."""
    note: str | None
    """Why the engine is not io_uring and what helps, and how many of its threads have failed; None if
    it is io_uring and no thread has failed."""
    features: tuple[str, ...] = ()
    """Optional features of io_uring that are in use, by the kernel's names; none before Linux 6.1."""


@set_module("threadlets")
def engine() -> Engine:
    """Return which engine carries on runs that would block; it is chosen at first use.

    io_uring is used where it works, worker threads elsewhere: the results are the same. The
    environment variable THREADLETS_ENGINE (`uring` or `workers`) overrides this choice, and is read
    before io_uring is tried.

    Raises:
        ValueError: THREADLETS_ENGINE has another value.
        OSError: THREADLETS_ENGINE is `uring`, and io_uring does not work here; the message says why,
            and what helps.
    """
    kind, threads, in_flight, note = engine_info()
    features = tuple(uring_features()) if kind == "uring" else ()
    return Engine(kind, threads, in_flight, note, features)
