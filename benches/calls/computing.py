"""A function that computes without blocking, and how it delays other requests of the loop."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benches.calls.timing import Ticker, laps, now_ns, p50_p99
from benches.histogram import histogram
from benches.scenario import Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benches.calls.ways import Call

_N_SHORT = 10


async def computing(call: Call, seconds: float, parameters: Mapping[str, Any]) -> Reading:
    """Call a function that computes for long, while requests come every millisecond.

    ``request_lag_us`` is how long those requests wait while it computes, ``slowdown`` how much
    longer it takes than alone. ``short_slowdown`` is the same for shorter functions, one after
    another.
    """
    long_n = _steps(parameters["compute_ms"])
    short_n = _steps(parameters["short_ms"])
    alone_ns = []
    delays_us: list[float] = []
    short_delays_us: list[float] = []
    slowdowns = []
    short_slowdowns = []
    for _ in laps(seconds, 3):
        # Time it alone right before: the machine's speed varies more than the effect measured here.
        alone_ns.append(_timed(long_n))
        ticker = Ticker()
        async with ticker.ticking():
            since_ns, until_ns = await call(_compute, long_n)
        slowdowns.append((until_ns - since_ns) / alone_ns[-1])
        delays_us += ticker.delays_us(since_ns, until_ns)
        short_alone_ns = sum(_timed(short_n) for _ in range(_N_SHORT))
        ticker = Ticker()
        async with ticker.ticking():
            started_ns = now_ns()
            for _ in range(_N_SHORT):
                await call(_compute, short_n)
            short_slowdowns.append((now_ns() - started_ns) / short_alone_ns)
        short_delays_us += ticker.delays_us()
    figures = p50_p99("request_lag_us", delays_us)
    figures |= p50_p99("short_request_lag_us", short_delays_us)
    figures |= {
        "slowdown": statistics.median(slowdowns),
        "short_slowdown": statistics.median(short_slowdowns),
        "alone_ms": statistics.median(alone_ns) / 1e6,
    }
    return Reading(figures, {"request_lag": histogram(delays_us)})


def _steps(duration_ms: float) -> int:
    """Return how many steps take about ``duration_ms`` when nothing else runs."""
    n_steps = 100_000
    step_ns = min(_timed(n_steps) for _ in range(3)) / n_steps
    return int(duration_ms * 1e6 / step_ns)


def _timed(n_steps: int) -> int:
    since_ns, until_ns = _compute(n_steps)
    return until_ns - since_ns


def _compute(n_steps: int) -> tuple[int, int]:
    """Compute, and return when it began and ended."""
    since_ns = now_ns()
    total = 0
    for step in range(n_steps):
        total += step * step % 7
    return since_ns, now_ns()
