"""What is taken down while requests are parked, woken or cancelled. It knows no loop."""

from __future__ import annotations

import gc
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benches.scenario import Figures

#: The clock of everything here, in seconds.
clock = time.perf_counter
#: Sleeps that are not meant to end.
FOREVER_S = 3600
#: More than it takes until whatever starts late has started.
SETTLE_S = 0.2
#: How often the bystander on the loop wakes.
TICK_S = 0.001
#: What a receive that nothing comes for asks for.
RECEIVE_SIZE = 64
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


class SleptTooShort(Exception):
    """Not all were parked at the same time; the argument says by how many seconds."""


class Parking:
    """A measurement of parked requests: created, at rest, woken, ended, in this order.

    Times are by the clock. Those of the CPU, which others on the machine disturb less, are kept too.
    """

    def __init__(self, n: int, lead_s: float) -> None:
        self.n = n
        #: When sleeps are over: all at once, so long after the first was created.
        self.wake_at = 0.0
        self._lead_s = lead_s
        self._rss_before = 0
        self._since = (0.0, 0.0)
        self._figures: Figures = {}

    def creating(self) -> None:
        """Say that the first request is about to be created."""
        gc.collect()
        self._rss_before = rss_bytes()
        self._since = _both_clocks()
        self.wake_at = self._since[0] + self._lead_s

    def parked(self) -> None:
        """Say that all have been created, and that each has come to where it waits."""
        self._figures |= _each("create", self._since, self.n)

    def waking(self) -> None:
        """Say that all are at rest, and that the first is about to be woken."""
        self._figures["bytes_each"] = (rss_bytes() - self._rss_before) / self.n
        self._since = _both_clocks()

    def waking_by_clock(self) -> None:
        """Say that all are at rest, and wake when the sleeps are over.

        :raises SleptTooShort: the first were over before the last began.
        """
        self.waking()
        if (late_s := self._since[0] - self.wake_at) > 0:
            raise SleptTooShort(late_s)
        self._since = (self.wake_at, self._since[1])

    def ended(self) -> Figures:
        """Say that all have ended, and return the figures."""
        return self._figures | _each("wake", self._since, self.n)


class Cancelling:
    """A measurement of requests that are cancelled: created, cancelled, ended, forgotten."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.n_ticks = 0
        self._rss_before = 0
        self._n_descriptors_before = 0
        self._since = (0.0, 0.0)
        self._ticked_at = 0.0
        self._longest_s: float | None = None
        self._figures: Figures = {}

    def creating(self) -> None:
        """Say that the first request is about to be created."""
        gc.collect()
        self._n_descriptors_before = n_descriptors()
        self._rss_before = rss_bytes()

    def cancelling(self) -> None:
        """Say that all wait, and that the first is about to be cancelled."""
        self._figures["rss_peak_mib"] = (rss_bytes() - self._rss_before) / _MIB
        self._longest_s = 0.0
        self._since = _both_clocks()

    def ended(self) -> None:
        """Say that all have ended."""
        self._figures |= _each("cancel", self._since, self.n)
        self.n_ticks = 0

    def tick(self) -> None:
        """Say that a bystander that sleeps 1 ms at a time has woken."""
        now = clock()
        if self._longest_s is not None:
            self._longest_s = max(self._longest_s, now - self._ticked_at)
        self._ticked_at = now
        self.n_ticks += 1

    @property
    def is_ticking(self) -> bool:
        """Whether the bystander has run since all had ended; what the end left behind may hold it up."""
        return self.n_ticks > 2

    def forgotten(self) -> Figures:
        """Say that nobody refers to the requests any more, and return the figures."""
        assert self._longest_s is not None
        gc.collect()
        return {
            **self._figures,
            "frozen_ms": self._longest_s * 1e3,
            "rss_left_mib": (rss_bytes() - self._rss_before) / _MIB,
            "n_descriptors_left": float(n_descriptors() - self._n_descriptors_before),
        }


def _both_clocks() -> tuple[float, float]:
    return clock(), time.process_time()


def _each(what: str, since: tuple[float, float], n: int) -> Figures:
    wall_s, cpu_s = (now - then for now, then in zip(_both_clocks(), since, strict=True))
    return {f"{what}_us_each": wall_s * 1e6 / n, f"{what}_cpu_us_each": cpu_s * 1e6 / n}


def rss_bytes() -> int:
    """Return what this process occupies of the memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_SIZE


def n_descriptors() -> int:
    """Return how many descriptors this process has open; the one that looks is not counted."""
    return len(os.listdir("/proc/self/fd")) - 1


def slots(n: int) -> list[Any]:
    """Return a list whose memory is there before anybody looks at it."""
    return [None] * n


def bound_sockets(n: int) -> list[socket.socket]:
    """Return sockets that nobody sends to, one descriptor for each."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
        one.setblocking(False)
    return sockets
