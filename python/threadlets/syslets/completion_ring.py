"""`CompletionRing`: programs of any kind, whose ends come out of one queue."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, NamedTuple, ParamSpec, Self

from threadlets._core import BufferPool, Completions, Result, checkpoint
from threadlets.syslets.operations import Flow
from threadlets.syslets.syslet import Syslet, running_loop

P = ParamSpec("P")


class Completion(NamedTuple):
    """An entry of a completion ring."""

    tag: Any
    """What `submit` was given."""
    result: Result


class CompletionRing:
    """A queue of programs that have ended: files, sockets, timers, children, whatever they wait for.

    A program that ends without blocking is told so by `submit` itself; only one that had to wait
    makes an entry, with the result of its last atom. Entries come in the order in which programs
    end. None is ever lost: those beyond `size` are kept until there is room, and counted
    (`overflowed`).

    `wait` is for threads, `async_wait` for tasks of a loop. Runs that are under way when the ring
    is closed, or given up, are cancelled.

    Raises:
        ValueError: `size` is less than 1.
    """

    def __init__(self, size: int = 4096) -> None:
        if size < 1:
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
        """Start a program: return its result if it ended at once, None if an entry is to come.

        `flags`: ASYNC tries nothing here, SYNC does everything here, however long it takes, and
        NO_COMPLETE makes no entry. One that takes longer than `timeout` seconds after it first had
        to wait fails with ETIMEDOUT. Any thread may submit.

        Raises:
            TypeError: an argument is of the wrong kind.
            ValueError: `flags` contradict one another, or have no meaning for a whole program.
        """
        if flags:
            _check_flags(Flow(flags))
        return self._native._submit(program.native, args, None, tag, int(flags), timeout, pool)

    def wait(self, min_events: int = 1, timeout: float | None = None) -> list[Completion]:
        """Wait until there are at least `min_events` entries, and take all that there are.

        After `timeout` seconds, and when nothing is under way any more that could make one, there
        may be fewer. A signal handler runs meanwhile, and may raise.
        """
        self._check(min_events)
        deadline = None if timeout is None else time.monotonic() + timeout
        while n_missing := self._collect(min_events):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._native._wait(n_missing, left):
                self._collect(min_events)
                break
        return self._take()

    async def async_wait(self, min_events: int = 1) -> list[Completion]:
        """Wait for entries in a task, like `wait`.

        A task that is cancelled here loses no entry.

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
        """How many programs are under way, or have ended and were not taken yet."""
        return self._native._counts()[0] + len(self._waiting)

    @property
    def overflowed(self) -> int:
        """How many entries found the ring full and had to wait outside."""
        return self._native._counts()[1]

    def cancel(self) -> None:
        """Cancel everything that is under way; each makes its entry, with errno ECANCELED."""
        self._native._cancel()

    def close(self) -> None:
        """Cancel everything that is under way, wait until it has ended, and drop the entries."""
        self.cancel()
        while self.outstanding:
            self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _collect(self, min_events: int) -> int:
        """Take entries from outside; return how many more runs have to end, 0 if there are enough."""
        taken = self._native._take(self.size - len(self._waiting))
        self._waiting.extend(Completion(*it) for it in taken)
        # Nothing is waited for that nobody works at.
        return max(0, min(min_events - len(self._waiting), self._native._counts()[0]))

    def _take(self) -> list[Completion]:
        entries = []
        while self._waiting:
            entries.append(self._waiting.popleft())
        return entries

    def _check(self, min_events: int) -> None:
        if not 0 <= min_events <= self.size:
            raise ValueError(f"min_events is {min_events}; the ring has room for {self.size}")


def _check_flags(flags: Flow) -> None:
    if flags & ~(Flow.ASYNC | Flow.SYNC | Flow.NO_COMPLETE):
        raise ValueError(f"{flags!r} says something of an atom; ASYNC, SYNC and NO_COMPLETE go")
    if Flow.ASYNC | Flow.SYNC in flags:
        raise ValueError("ASYNC queues at once and SYNC never; leave one out")
