"""Clocks of the `calls` scenario: laps, and a ticker that measures how the loop is delayed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from benches.histogram import quantile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from benches.scenario import Figures

now_ns = time.perf_counter_ns
_TICK_NS = 1_000_000


class Ticker:
    """A request every millisecond: when each was due, and how late the loop ran it.

    Each request that became due while the loop was delayed counts with its own delay. So the delays
    are those of requests that come at any time, without coordinated omission.
    """

    def __init__(self) -> None:
        self.ticks: list[tuple[int, int]] = []

    @contextlib.asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Tick for the length of the block, and until all that was due in it has been counted."""
        task = asyncio.create_task(self._run())
        await asyncio.sleep(0.005)
        self.ticks.clear()
        try:
            yield
        finally:
            ended_ns = now_ns()
            while not self.ticks or self.ticks[-1][0] < ended_ns:
                await asyncio.sleep(0.001)
            self.ticks = [tick for tick in self.ticks if tick[0] <= ended_ns]
            task.cancel()

    async def _run(self) -> None:
        due_ns = now_ns() + _TICK_NS
        while True:
            await asyncio.sleep(max(0, due_ns - now_ns()) / 1e9)
            ran_ns = now_ns()
            while due_ns <= ran_ns:
                self.ticks.append((due_ns, ran_ns))
                due_ns += _TICK_NS

    def delays_us(self, since_ns: int = 0, until_ns: int | None = None) -> list[float]:
        """Return the delays of requests that became due in this time."""
        return [
            (ran_ns - due_ns) / 1e3
            for due_ns, ran_ns in self.ticks
            if due_ns >= since_ns and (until_ns is None or due_ns <= until_ns)
        ]


def laps(seconds: float, n_laps_min: int = 1) -> Iterable[int]:
    """Count laps until the time is over."""
    until = time.perf_counter() + seconds
    lap_idx = 0
    while lap_idx < n_laps_min or time.perf_counter() < until:
        yield lap_idx
        lap_idx += 1


def p50_p99(name: str, values: Iterable[float]) -> Figures:
    """Return both quantiles and the largest value: ``name_p50``, ``name_p99`` and ``name_max``."""
    ordered = sorted(values)
    return {
        f"{name}_p50": quantile(ordered, 0.5),
        f"{name}_p99": quantile(ordered, 0.99),
        f"{name}_max": ordered[-1],
    }
