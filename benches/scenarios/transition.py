"""The cost of the loop itself: switches, callbacks, timers, wake-ups from another thread."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any

from benches.peers import CEILING, PEERS, SUBJECT
from benches.placement import python, run_pinned
from benches.scenario import Case, Metric, NotApplicable, Scenario

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benches.scenario import Budget, Figures

#: Peers that yield in their own ways, and have no counterpart of the other cases.
OTHER_LOOPS = ("trio", "gevent")
N_TASKS = 1000
#: How often each of them yields in a lap.
N_YIELDS = 100
_N_TIMERS = 10_000
_N_CALLBACKS = 20_000
_N_PAIRS = 1000


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Run one body on one fresh interpreter, pinned to the server's CPU."""
    if peer == CEILING:
        raise NotApplicable("The ceiling has no event loop to measure.")
    cpus = {budget.placement.server_cpu}
    if case.parameters.get("cpus") == "both":
        cpus.add(budget.placement.load_cpu)
    argv = python("benches.timed", peer, case.name, str(budget.seconds))
    figures: Figures = json.loads(run_pinned(argv, cpus, timeout_s=60 + 5 * budget.seconds))
    return figures


async def sleep_zero(seconds: float) -> Figures:
    """Let 1000 tasks yield in turn; return ns per switch."""

    async def yields() -> None:
        for _ in range(N_YIELDS):
            await asyncio.sleep(0)

    async def lap() -> float:
        tasks = [asyncio.create_task(yields()) for _ in range(N_TASKS)]
        # This starts every task, so that only resumptions are timed.
        await asyncio.sleep(0)
        started_ns = time.perf_counter_ns()
        for task in tasks:
            await task
        return (time.perf_counter_ns() - started_ns) / (N_TASKS * N_YIELDS)

    return {"switch_ns": await _median_of_laps(lap, seconds)}


async def call_soon(seconds: float) -> Figures:
    """Let each callback schedule the next; return ns per callback, with one callback a tick."""
    loop = asyncio.get_running_loop()

    async def lap() -> float:
        done = loop.create_future()
        n_left = _N_CALLBACKS

        def step() -> None:
            nonlocal n_left
            n_left -= 1
            if n_left:
                loop.call_soon(step)
            else:
                done.set_result(None)

        started_ns = time.perf_counter_ns()
        loop.call_soon(step)
        await done
        return (time.perf_counter_ns() - started_ns) / _N_CALLBACKS

    return {"callback_ns": await _median_of_laps(lap, seconds)}


async def call_soon_batch(seconds: float) -> Figures:
    """Run 20,000 callbacks that are ready at once, in one tick; return ns per callback."""
    loop = asyncio.get_running_loop()

    async def lap() -> float:
        done = loop.create_future()
        started_ns = time.perf_counter_ns()
        for _ in range(_N_CALLBACKS):
            loop.call_soon(_nothing)
        loop.call_soon(done.set_result, None)
        await done
        return (time.perf_counter_ns() - started_ns) / _N_CALLBACKS

    return {"callback_ns": await _median_of_laps(lap, seconds)}


async def call_later_cancel(seconds: float) -> Figures:
    """Set and cancel timeouts, 1000 a tick; return ns per pair."""
    loop = asyncio.get_running_loop()
    n_ticks = 20

    async def lap() -> float:
        started_ns = time.perf_counter_ns()
        for _ in range(n_ticks):
            handles = [loop.call_later(60, _nothing) for _ in range(_N_PAIRS)]
            for handle in handles:
                handle.cancel()
            # The loop may do its part of the work only in the next tick.
            await asyncio.sleep(0)
        return (time.perf_counter_ns() - started_ns) / (n_ticks * _N_PAIRS)

    return {"pair_ns": await _median_of_laps(lap, seconds)}


async def call_at(seconds: float) -> Figures:
    """Set 10,000 timers in random order, due over 10 ms; return CPU ns to set and to fire each.

    It is CPU time, because the loop has to wait for the first timer.
    """
    loop = asyncio.get_running_loop()
    # One order for every peer.
    generator = random.Random(7)
    delays_s = [0.05 + generator.random() * 0.01 for _ in range(_N_TIMERS)]
    set_ns = []

    async def lap() -> float:
        done = loop.create_future()
        n_left = _N_TIMERS

        def fire() -> None:
            nonlocal n_left
            n_left -= 1
            if not n_left:
                done.set_result(None)

        started_ns = time.process_time_ns()
        now = loop.time()
        for delay_s in delays_s:
            loop.call_at(now + delay_s, fire)
        set_ns.append((time.process_time_ns() - started_ns) / _N_TIMERS)
        await done
        return (time.process_time_ns() - started_ns) / _N_TIMERS

    timer_ns = await _median_of_laps(lap, seconds)
    return {"timer_cpu_ns": timer_ns, "timer_set_cpu_ns": statistics.median(set_ns)}


async def call_soon_threadsafe(seconds: float) -> Figures:
    """Let a thread wake the idle loop, whose callback wakes the thread; return us per round trip."""
    loop = asyncio.get_running_loop()
    latencies_ns: list[int] = []
    done = loop.create_future()

    def ping() -> None:
        answered = threading.Lock()
        answered.acquire()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            started_ns = time.perf_counter_ns()
            loop.call_soon_threadsafe(answered.release)
            answered.acquire()
            latencies_ns.append(time.perf_counter_ns() - started_ns)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=ping)
    thread.start()
    await done
    thread.join()
    latencies_ns.sort()
    return {
        "round_trip_us_p50": latencies_ns[len(latencies_ns) // 2] / 1e3,
        "round_trip_us_p99": latencies_ns[len(latencies_ns) * 99 // 100] / 1e3,
        "n_round_trips": float(len(latencies_ns)),
    }


async def contract(seconds: float) -> Figures:
    """Switch with the floating-point contract and without; return the ns it adds, a median of pairs.

    The loop changes its policy between laps, so that nothing else is different.
    """
    loop: Any = asyncio.get_running_loop()
    n_yields = 10
    stopped = False

    async def yields() -> None:
        while not stopped:
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(yields()) for _ in range(N_TASKS)]
    await asyncio.sleep(0)

    async def lap(policy: str) -> float:
        loop._fp_policy = policy
        started_ns = time.perf_counter_ns()
        for _ in range(n_yields):
            await asyncio.sleep(0)
        return (time.perf_counter_ns() - started_ns) / ((N_TASKS + 1) * n_yields)

    added_ns: list[float] = []
    switch_ns: list[float] = []
    until = time.perf_counter() + seconds
    while len(added_ns) < 10 or time.perf_counter() < until:
        # Alternate which of the two is the first.
        if len(added_ns) % 2:
            with_ns, without_ns = await lap("restore"), await lap("off")
        else:
            without_ns, with_ns = await lap("off"), await lap("restore")
        added_ns.append(with_ns - without_ns)
        switch_ns.append(with_ns)
    stopped = True
    await asyncio.gather(*tasks)
    return {
        "contract_ns": statistics.median(added_ns),
        "switch_ns": statistics.median(switch_ns),
        "n_pairs": float(len(added_ns)),
    }


async def _median_of_laps(lap: Callable[[], Awaitable[float]], seconds: float) -> float:
    """Repeat for the given time, one lap to warm up, at least three that count."""
    await lap()
    laps: list[float] = []
    until = time.perf_counter() + seconds
    while len(laps) < 3 or time.perf_counter() < until:
        laps.append(await lap())
    return statistics.median(laps)


def _nothing() -> None:
    pass


BODIES: dict[str, Callable[[float], Awaitable[Figures]]] = {
    "sleep-zero": sleep_zero,
    "contract": contract,
    "call-soon": call_soon,
    "call-soon-batch": call_soon_batch,
    "call-later-cancel": call_later_cancel,
    "call-at": call_at,
    "threadsafe-same-cpu": call_soon_threadsafe,
    "threadsafe-both-cpus": call_soon_threadsafe,
}

_ROUND_TRIP = (
    Metric("round_trip_us_p50", "us", "lower"),
    Metric("round_trip_us_p99", "us", "lower"),
)


def _case(
    name: str,
    metrics: tuple[Metric, ...],
    parameters: dict[str, str | int] | None = None,
    others: tuple[str, ...] = (),
) -> Case:
    return Case(name, metrics, parameters or {}, (*PEERS, *others))


SCENARIO = Scenario(
    name="transition",
    doc="The loop's own cost: switches, callbacks, timers, wake-ups from another thread.",
    cases=(
        _case(
            "sleep-zero",
            (Metric("switch_ns", "ns", "lower", "<=250"),),
            {"n_tasks": N_TASKS},
            OTHER_LOOPS,
        ),
        _case("call-soon", (Metric("callback_ns", "ns", "lower"),)),
        _case("call-soon-batch", (Metric("callback_ns", "ns", "lower"),)),
        _case("call-later-cancel", (Metric("pair_ns", "ns", "lower"),), {"n_pairs": _N_PAIRS}),
        _case("call-at", (Metric("timer_cpu_ns", "ns", "lower"),), {"n_timers": _N_TIMERS}),
        _case("threadsafe-same-cpu", _ROUND_TRIP, {"cpus": "same"}),
        _case("threadsafe-both-cpus", _ROUND_TRIP, {"cpus": "both"}),
        Case(
            "contract",
            (Metric("contract_ns", "ns", "lower", "<=5"),),
            {"n_tasks": N_TASKS},
            (SUBJECT,),
        ),
    ),
    measure=measure,
    peers=(*PEERS, *OTHER_LOOPS),
    legend=(
        f"sleep-zero: {N_TASKS} tasks do nothing but `asyncio.sleep(0)`, `trio.sleep(0)`, "
        "`gevent.sleep(0)`.",
        "contract: what comparing the floating-point state adds to such a switch; laps with "
        "`fp='restore'` and `fp='off'` alternate on one loop.",
    ),
)
