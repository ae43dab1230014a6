"""Functions called through executors, by callers that need no change: with a loop and without."""

from __future__ import annotations

import asyncio
import importlib
import statistics
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benches.calls.timing import laps, now_ns
from benches.calls.ways import WAYS
from benches.peers import SUBJECT
from benches.scenario import Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

_N_ROUND_TRIPS = 100


def executor(peer: str, seconds: float, parameters: Mapping[str, Any]) -> Reading:
    """Use an executor without a loop: map, one call at a time, and functions that block."""
    n_calls, n_sleepers = parameters["n_calls"], parameters["n_sleepers"]
    sleep_s = parameters["sleep_ms"] / 1e3
    map_us = []
    round_trip_us = []
    sleepers_ms = []
    with _executor(peer) as pool:
        pool.submit(_quick, 0).result()
        for _ in laps(seconds, 3):
            started_ns = now_ns()
            for _ in pool.map(_quick, range(n_calls)):
                pass
            map_us.append((now_ns() - started_ns) / 1e3 / n_calls)
            for _ in range(_N_ROUND_TRIPS):
                started_ns = now_ns()
                pool.submit(_quick, 0).result()
                round_trip_us.append((now_ns() - started_ns) / 1e3)
            started_ns = now_ns()
            for future in [pool.submit(time.sleep, sleep_s) for _ in range(n_sleepers)]:
                future.result()
            sleepers_ms.append((now_ns() - started_ns) / 1e6)
    return Reading(
        {
            "map_us": statistics.median(map_us),
            "round_trip_us": statistics.median(round_trip_us),
            "sleepers_ms": statistics.median(sleepers_ms),
        }
    )


async def loop_executor(seconds: float, parameters: Mapping[str, Any]) -> Reading:
    """Use ``loop.run_in_executor(None, …)``: many at once, one at a time, functions that block."""
    loop = asyncio.get_running_loop()
    n_calls, n_sleepers = parameters["n_calls"], parameters["n_sleepers"]
    sleep_s = parameters["sleep_ms"] / 1e3
    batch_us = []
    round_trip_us = []
    sleepers_ms = []
    await loop.run_in_executor(None, _quick, 0)
    for _ in laps(seconds, 3):
        started_ns = now_ns()
        await asyncio.gather(*(loop.run_in_executor(None, _quick, it) for it in range(n_calls)))
        batch_us.append((now_ns() - started_ns) / 1e3 / n_calls)
        for _ in range(_N_ROUND_TRIPS):
            started_ns = now_ns()
            await loop.run_in_executor(None, _quick, 0)
            round_trip_us.append((now_ns() - started_ns) / 1e3)
        started_ns = now_ns()
        await asyncio.gather(
            *(loop.run_in_executor(None, time.sleep, sleep_s) for _ in range(n_sleepers))
        )
        sleepers_ms.append((now_ns() - started_ns) / 1e6)
    return Reading(
        {
            "batch_us": statistics.median(batch_us),
            "round_trip_us": statistics.median(round_trip_us),
            "sleepers_ms": statistics.median(sleepers_ms),
        }
    )


def _executor(peer: str) -> Executor:
    if peer == SUBJECT:
        made: Executor = importlib.import_module(SUBJECT).ThreadletExecutor()
        return made
    return ThreadPoolExecutor(WAYS[peer].n_threads)


def _quick(number: int) -> int:
    return number + 1
