"""`CompletionRing`: one completion queue for runs of any program."""

import time
from collections import deque
from typing import Any, NamedTuple, ParamSpec, Self

from threadlets._arguments import check_buffer_pool, check_integer, check_number
from threadlets._core import BufferPool, Completions, Result, checkpoint
from threadlets._public import set_module
from threadlets._syslets.operations import Flow
from threadlets._syslets.program import Syslet, native_of, running_loop

P = ParamSpec("P")


@set_module("threadlets")
class Completion(NamedTuple):
    """An entry of a completion ring."""

    tag: Any
    """The `tag` that `submit` was given."""
    result: Result


@set_module("threadlets")
class CompletionRing:
    """A completion queue for runs of any program: of files, sockets, timers, child processes.

    `submit` returns the result of a run that ends without blocking; only a run that had to wait
    makes an entry, with its result. Entries come in the order in which the runs end. No entry is
    lost: those beyond `size` are kept outside of the ring until there is room, and are counted
    (`overflowed`).

    `wait` is for threads, `async_wait` for tasks. Closing the ring, or dropping the last reference
    to it, cancels the runs in flight.

    Raises:
        ValueError: `size` is less than 1.
    """

    def __init__(self, size: int = 4096) -> None:
        if check_integer("size", size, "the number of entries that the ring has room for") < 1:
            raise ValueError(f"size is {size}; a ring has room for at least one entry")
        self.size = size
        self._native = Completions(size)
        self._waiting: deque[Completion] = deque()

    def submit(
        self,
        program: Syslet[P],
        *args: Any,
        tag: Any = None,
        flags: Flow | int = 0,
        timeout: float | None = None,
        pool: BufferPool | None = None,
    ) -> Result | None:
        """Start a run of `program`: return its result if it ended at once, None if an entry follows.

        `flags`: ASYNC gives the run to the engine without an attempt here, SYNC performs all of it
        here, even if it blocks, and NO_COMPLETE makes no entry. A run that takes longer than
        `timeout` seconds after it first had to wait fails with ETIMEDOUT. Any thread may submit.

        Raises:
            TypeError: an argument is of the wrong kind.
            ValueError: `flags` contradict one another, or have no meaning for a whole program.
        """
        if flags:
            _check_flags(flags)
        if timeout is not None:
            check_number("timeout", timeout, "a time in seconds, or None for none")
        check_buffer_pool(pool)
        return self._native._submit(native_of(program), args, None, tag, int(flags), timeout, pool)

    def wait(self, min_events: int = 1, timeout: float | None = None) -> list[Completion]:
        """Wait until there are at least `min_events` entries, and return all entries.

        There may be fewer after `timeout` seconds, and when no run in flight can make another one.
        Signal handlers run meanwhile, and may raise.
        """
        self._check(min_events)
        if timeout is not None:
            check_number("timeout", timeout, "a time in seconds, or None for none")
        deadline = None if timeout is None else time.monotonic() + timeout
        while n_missing := self._collect(min_events):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._native._wait(n_missing, left):
                self._collect(min_events)
                break
        return self._take()

    async def async_wait(self, min_events: int = 1) -> list[Completion]:
        """Wait for entries in a task, like `wait`; a cancelled task loses no entry.

        Raises:
            RuntimeError: the running loop is not threadlets'.
        """
        self._check(min_events)
        await checkpoint
        loop = running_loop()
        while n_missing := self._collect(min_events):
            await self._native._readiness(loop, n_missing)
        return self._take()

    @property
    def outstanding(self) -> int:
        """Number of runs that are in flight, or have ended and were not taken yet."""
        return self._native._counts()[0] + len(self._waiting)

    @property
    def overflowed(self) -> int:
        """Number of entries that found the ring full and were kept outside of it."""
        return self._native._counts()[1]

    def cancel(self) -> None:
        """Cancel all runs in flight; each makes its entry, with errno ECANCELED."""
        self._native._cancel()

    def close(self) -> None:
        """Cancel all runs in flight, wait until they have ended, and drop the entries."""
        self.cancel()
        while self.outstanding:
            self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _collect(self, min_events: int) -> int:
        """Move native entries into the ring; return how many more runs must end; 0: enough have."""
        taken = self._native._take(self.size - len(self._waiting))
        self._waiting.extend(Completion(*it) for it in taken)
        # Never wait for more entries than there are runs in flight.
        return max(0, min(min_events - len(self._waiting), self._native._counts()[0]))

    def _take(self) -> list[Completion]:
        entries = []
        while self._waiting:
            entries.append(self._waiting.popleft())
        return entries

    def _check(self, min_events: int) -> None:
        meaning = "the number of entries to wait for"
        if not 0 <= check_integer("min_events", min_events, meaning) <= self.size:
            raise ValueError(f"min_events is {min_events}; the ring has room for {self.size}")


def _check_flags(given: Flow | int) -> None:
    remedy = "combine threadlets.atoms.ASYNC, SYNC and NO_COMPLETE by |"
    flags = Flow(check_integer("flags", given, "how a run is made; " + remedy))
    if flags & ~(Flow.ASYNC | Flow.SYNC | Flow.NO_COMPLETE):
        raise ValueError(f"{flags!r} has flags of atoms; submit takes ASYNC, SYNC and NO_COMPLETE")
    if Flow.ASYNC | Flow.SYNC in flags:
        raise ValueError("ASYNC and SYNC contradict one another; leave one out")
