"""Measurements of requests that are parked, woken or cancelled. Knows no loop."""

from __future__ import annotations

import gc
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benches.scenario import Figures

#: The clock for all times here, in seconds.
clock = time.perf_counter
#: Sleeps that are not meant to end.
FOREVER_S = 3600
#: Longer than it takes until everything that starts late has started, in seconds.
SETTLE_S = 0.2
#: How often the bystander on the loop wakes.
TICK_S = 0.001
#: How many bytes a receive asks for; none ever come.
RECEIVE_SIZE = 64
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


class SleptTooShort(Exception):
    """Not all were parked at the same time; the argument says by how many seconds."""


class Parking:
    """A measurement of parked requests: created, at rest, woken, ended, in this order.

    Times are wall-clock times. CPU times, which other processes disturb less, are kept, too.
    """

    def __init__(self, n: int, lead_s: float) -> None:
        self.n = n
        #: When all sleeps end: ``lead_s`` after the first was created.
        self.wake_at = 0.0
        self._lead_s = lead_s
        self._rss_before = 0
        self._since = (0.0, 0.0)
        self._figures: Figures = {}

    def creating(self) -> None:
        """Record that the first request is about to be created."""
        gc.collect()
        self._rss_before = rss_bytes()
        self._since = _both_clocks()
        self.wake_at = self._since[0] + self._lead_s

    def parked(self) -> None:
        """Record that all have been created, and that each of them waits."""
        self._figures |= _each("create", self._since, self.n)

    def waking(self) -> None:
        """Record that all are at rest, and that the first is about to be woken."""
        self._figures["bytes_each"] = (rss_bytes() - self._rss_before) / self.n
        self._since = _both_clocks()

    def waking_by_clock(self) -> None:
        """Record that all are at rest, and will wake when their sleeps end.

        :raises SleptTooShort: the first ended before the last began.
        """
        self.waking()
        if (late_s := self._since[0] - self.wake_at) > 0:
            raise SleptTooShort(late_s)
        self._since = (self.wake_at, self._since[1])

    def ended(self) -> Figures:
        """Record that all have ended, and return the figures."""
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
        """Record that the first request is about to be created."""
        gc.collect()
        self._n_descriptors_before = n_descriptors()
        self._rss_before = rss_bytes()

    def cancelling(self) -> None:
        """Record that all wait, and that the first is about to be cancelled."""
        self._figures["rss_peak_mib"] = (rss_bytes() - self._rss_before) / _MIB
        self._longest_s = 0.0
        self._since = _both_clocks()

    def ended(self) -> None:
        """Record that all have ended."""
        self._figures |= _each("cancel", self._since, self.n)
        self.n_ticks = 0

    def tick(self) -> None:
        """Record that the bystander, which sleeps 1 ms at a time, has woken."""
        now = clock()
        if self._longest_s is not None:
            self._longest_s = max(self._longest_s, now - self._ticked_at)
        self._ticked_at = now
        self.n_ticks += 1

    @property
    def is_ticking(self) -> bool:
        """Whether the bystander has run since all had ended; work after the end may delay it."""
        return self.n_ticks > 2

    def forgotten(self) -> Figures:
        """Record that no reference to the requests is left, and return the figures."""
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
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_SIZE


def n_descriptors() -> int:
    """Return how many descriptors this process has open, without the one that lists them."""
    return len(os.listdir("/proc/self/fd")) - 1


def slots(n: int) -> list[Any]:
    """Return a list of this length, whose memory is allocated before memory is measured."""
    return [None] * n


def bound_sockets(n: int) -> list[socket.socket]:
    """Return datagram sockets, to which nothing is ever sent."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
        one.setblocking(False)
    return sockets
