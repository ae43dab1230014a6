"""The cost of calls: of functions that return at once, of functions that block, and of both mixed."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from typing import TYPE_CHECKING, Any

from benches.calls.timing import Ticker, laps, now_ns, p50_p99
from benches.histogram import histogram
from benches.scenario import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benches.calls.ways import Call

_N_NOOPS = 2000
_N_IN_TURN = 10


async def noop(call: Call, seconds: float, _parameters: Mapping[str, Any]) -> Reading:
    """Call a function that does nothing, in one task; ns per ``await``, including the ``for`` loop.

    ``added_ns`` is what the await costs beyond a bare call in the same loop of the same process.
    """
    call_ns: list[float] = []
    bare_ns: list[float] = []
    for _ in laps(seconds, 3):
        started_ns = now_ns()
        for _ in range(_N_NOOPS):
            _nothing()
        turned_ns = now_ns()
        for _ in range(_N_NOOPS):
            await call(_nothing)
        ended_ns = now_ns()
        bare_ns.append((turned_ns - started_ns) / _N_NOOPS)
        call_ns.append((ended_ns - turned_ns) / _N_NOOPS)
    median_ns, floor_ns = statistics.median(call_ns), statistics.median(bare_ns)
    return Reading({"call_ns": median_ns, "added_ns": median_ns - floor_ns, "bare_ns": floor_ns})


async def sleeping(call: Call, seconds: float, parameters: Mapping[str, Any]) -> Reading:
    """Call ``time.sleep`` again and again; us beyond the median of the same calls made directly."""
    sleep_s = parameters["sleep_ms"] / 1e3
    bare_us = []
    taken_us = []
    for _ in laps(seconds, 2):
        # Alternate: how long a bare sleep takes changes with the state of the host.
        for _ in range(_N_IN_TURN):
            started_ns = now_ns()
            time.sleep(sleep_s)
            bare_us.append((now_ns() - started_ns) / 1e3)
        for _ in range(_N_IN_TURN):
            started_ns = now_ns()
            await call(time.sleep, sleep_s)
            taken_us.append((now_ns() - started_ns) / 1e3)
    floor_us = statistics.median(bare_us)
    added_us = [taken - floor_us for taken in taken_us]
    figures = p50_p99("added_us", added_us)
    figures |= {"bare_us_p50": floor_us, "n_calls": float(len(added_us))}
    return Reading(figures, {"added": histogram(added_us)})


async def next_request(call: Call, seconds: float, parameters: Mapping[str, Any]) -> Reading:
    """Call a function that blocks while a callback is ready; us from the call to the callback.

    The clock starts before the function is called, so that handing it to a thread counts, too.
    """
    loop = asyncio.get_running_loop()
    sleep_s = parameters["sleep_ms"] / 1e3
    rest_s = parameters["rest_ms"] / 1e3
    waited_us = []
    ran_ns = 0

    def ready() -> None:
        nonlocal ran_ns
        ran_ns = now_ns()

    for lap_idx in laps(seconds, 3):
        if rest_s:
            await asyncio.sleep(rest_s)
        loop.call_soon(ready)
        started_ns = now_ns()
        await call(time.sleep, sleep_s)
        # If no other thread could run the callback, it is still in the ready queue.
        while ran_ns < started_ns:
            await asyncio.sleep(0)
        # The first call does not count, since it starts threads.
        if lap_idx:
            waited_us.append((ran_ns - started_ns) / 1e3)
    figures = p50_p99("wait_us", waited_us) | {"n_calls": float(len(waited_us))}
    return Reading(figures, {"wait": histogram(waited_us)})


async def mixed(call: Call, seconds: float, parameters: Mapping[str, Any]) -> Reading:
    """Make many calls from 50 tasks, few of which block; time all of them, and the quick ones."""
    jobs = _jobs(parameters["n_calls"])
    walls_ms = []
    cpus_ms = []
    delays_us: list[float] = []
    quick_us: list[float] = []
    await _work_off(call, jobs[: len(jobs) // 20], parameters["n_tasks"])
    for _ in laps(seconds):
        ticker = Ticker()
        async with ticker.ticking():
            started_ns = now_ns()
            started_cpu_ns = time.process_time_ns()
            latencies_us = await _work_off(call, jobs, parameters["n_tasks"])
            cpus_ms.append((time.process_time_ns() - started_cpu_ns) / 1e6)
            walls_ms.append((now_ns() - started_ns) / 1e6)
        delays_us += ticker.delays_us()
        quick_us += latencies_us
    figures = {"wall_ms": statistics.median(walls_ms), "cpu_ms": statistics.median(cpus_ms)}
    figures |= p50_p99("loop_lag_us", delays_us) | p50_p99("quick_us", quick_us)
    figures["n_laps"] = float(len(walls_ms))
    return Reading(figures, {"quick": histogram(quick_us), "loop_lag": histogram(delays_us)})


async def _work_off(
    call: Call, jobs: list[tuple[Callable[[float], int], float]], n_tasks: int
) -> list[float]:
    """Make all calls from tasks, and return the latencies in us of those that do not block."""
    remaining = iter(jobs)
    quick_us: list[float] = []

    async def work() -> None:
        for function, argument in remaining:
            started_ns = now_ns()
            await call(function, argument)
            if function is _quick:
                quick_us.append((now_ns() - started_ns) / 1e3)
            await asyncio.sleep(0)

    await asyncio.gather(*(work() for _ in range(n_tasks)))
    return quick_us


def _jobs(n_calls: int) -> list[tuple[Callable[[float], int], float]]:
    """Return calls in one order for all peers: 90 % never block, 8 % do in one of 100, 2 % always."""
    generator = random.Random(1)
    functions = generator.choices((_quick, _rarely_blocks, _blocks), (90, 8, 2), k=n_calls)
    arguments = (generator.random() for _ in itertools.repeat(None))
    return list(zip(functions, arguments, strict=False))


def _nothing() -> None:
    pass


def _quick(number: float) -> int:
    return len(str(number))


def _rarely_blocks(number: float) -> int:
    if number < 0.01:
        time.sleep(0.002)
    return 1


def _blocks(_number: float) -> int:
    time.sleep(0.001)
    return 1
