"""The `sleep-zero` case of the transition scenario for peers that have no asyncio loop."""

from __future__ import annotations

import importlib
import statistics
from typing import TYPE_CHECKING, Any

from benches.calls.timing import laps, now_ns
from benches.scenarios.transition import N_TASKS, N_YIELDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.scenario import Figures


def in_trio(seconds: float) -> Figures:
    """Let 1000 tasks yield in turn; return ns per switch."""
    trio: Any = importlib.import_module("trio")

    async def yields() -> None:
        for _ in range(N_YIELDS):
            await trio.sleep(0)

    async def lap() -> float:
        async with trio.open_nursery() as nursery:
            for _ in range(N_TASKS):
                nursery.start_soon(yields)
            await trio.sleep(0)
            started_ns = now_ns()
        return (now_ns() - started_ns) / (N_TASKS * N_YIELDS)

    async def main() -> list[float]:
        await lap()
        return [await lap() for _ in laps(seconds, n_laps_min=3)]

    return {"switch_ns": statistics.median(trio.run(main))}


def in_gevent(seconds: float) -> Figures:
    """Let 1000 greenlets yield in turn; return ns per switch."""
    gevent: Any = importlib.import_module("gevent")

    def yields() -> None:
        for _ in range(N_YIELDS):
            gevent.sleep(0)

    def lap() -> float:
        greenlets = [gevent.spawn(yields) for _ in range(N_TASKS)]
        gevent.sleep(0)
        started_ns = now_ns()
        for greenlet in greenlets:
            greenlet.join()
        return (now_ns() - started_ns) / (N_TASKS * N_YIELDS)

    lap()
    return {"switch_ns": statistics.median([lap() for _ in laps(seconds, n_laps_min=3)])}


#: By peer; the only case that they have is sleep-zero.
SWITCHES: dict[str, Callable[[float], Figures]] = {"trio": in_trio, "gevent": in_gevent}
