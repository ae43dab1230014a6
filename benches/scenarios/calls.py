"""Calls of plain functions that may block, in every way that a coroutine can make them.

The claims: a call that does not block costs as much as an await; one that blocks delays the loop by
at most 100 us and returns sooner than from a pool; any number of calls may be blocked at once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benches.peers import SUBJECT
from benches.placement import python, run_pinned
from benches.scenario import Case, Metric, NotApplicable, Reading, Scenario

if TYPE_CHECKING:
    from benches.scenario import Budget

_WAYS = (SUBJECT, "asyncio", "pool-64", "uvloop", "anyio", "direct")
_PREEMPT_MS = (2, 5, 10, 20, 50, "never")
_STACKS_KIB = (64, 8192)
_N_BLOCKERS = 1000


def measure(case: Case, peer: str, budget: Budget) -> Reading:
    """Run one load in one fresh interpreter, pinned to the server's CPU or to both."""
    cpus = {budget.placement.server_cpu}
    if case.parameters["n_cpus"] == 2:
        cpus.add(budget.placement.load_cpu)
    load = str(case.parameters["load"])
    argv = python(
        "benches.calls", peer, load, str(budget.seconds), json.dumps(dict(case.parameters))
    )
    reading = Reading(**json.loads(run_pinned(argv, cpus, timeout_s=60 + 5 * budget.seconds)))
    stack_kib = int(case.parameters.get("stack_kib", 0))
    # The C library rounds up, and may add room for its own data.
    if stack_kib and not stack_kib <= reading.figures["stack_size_kib"] <= stack_kib + 64:
        raise NotApplicable(
            f"its threads do not follow threading.stack_size(): "
            f"{reading.figures['stack_size_kib']:.0f} KiB instead of {stack_kib}"
        )
    return reading


def _metrics(unit: str, *names: str, **goals: str) -> tuple[Metric, ...]:
    """Return metrics of which lower is better."""
    return tuple(Metric(name, unit, "lower", goals.get(name)) for name in names)


def _case(
    name: str,
    load: str,
    metrics: tuple[Metric, ...],
    peers: tuple[str, ...] = _WAYS,
    n_cpus: int = 2,
    **parameters: str | int,
) -> Case:
    return Case(name, metrics, {"load": load, "n_cpus": n_cpus, **parameters}, peers)


def _next_request(suffix: str, n_cpus: int, rest_ms: int = 0) -> Case:
    # With a rest before each call there are too few for a percentile.
    names = ("wait_us_p50",) if rest_ms else ("wait_us_p50", "wait_us_p99")
    metrics = _metrics("us", *names, wait_us_p50="<=100")
    return _case(
        f"next-request-{suffix}",
        "next-request",
        metrics,
        n_cpus=n_cpus,
        sleep_ms=5,
        rest_ms=rest_ms,
    )


def _mixed(suffix: str, n_cpus: int) -> Case:
    metrics = (
        *_metrics("ms", "wall_ms", "cpu_ms", wall_ms="<=0.12x pool-64"),
        *_metrics("us", "loop_lag_us_p50", "loop_lag_us_p99", "quick_us_p50", "quick_us_p99"),
    )
    return _case(f"mixed-{suffix}", "mixed", metrics, n_cpus=n_cpus, n_calls=20_000, n_tasks=50)


_LAG = _metrics("us", "request_lag_us_p50", "request_lag_us_p99", "request_lag_us_max")
_SLOWDOWN = _metrics("x", "slowdown", "short_slowdown")
_MEMORY = _metrics("KiB", "rss_kib_per_thread")

CASES = (
    _case("noop", "noop", _metrics("ns", "call_ns", "added_ns", call_ns="<=250"), n_cpus=1),
    _case(
        "sleep-1ms",
        "sleeping",
        _metrics("us", "added_us_p50", "added_us_p99", added_us_p50="<=100"),
        sleep_ms=1,
    ),
    _next_request("one-cpu", 1),
    _next_request("two-cpus", 2),
    _next_request("after-rest", 2, rest_ms=100),
    _mixed("one-cpu", 1),
    _mixed("two-cpus", 2),
    _case(
        "cpu-bound",
        "computing",
        (*_LAG, *_SLOWDOWN),
        compute_ms=100,
        short_ms=4,
    ),
    _case(
        f"blockers-{_N_BLOCKERS}",
        "blockers",
        (
            *_metrics("ms", "wall_ms", "start_ms", wall_ms="<=400"),
            *_metrics("threads", "threads_peak", "threads_left", threads_left="<=2"),
            *_MEMORY,
        ),
        (SUBJECT, "pool-64", "pool-1000", "anyio"),
        n_blockers=_N_BLOCKERS,
        n_threads=_N_BLOCKERS,
        sleep_ms=200,
        settle_ms=3000,
    ),
    *(
        _case(
            f"stack-{stack_kib}-kib",
            "blockers",
            (*_metrics("ms", "start_ms"), *_MEMORY),
            (SUBJECT, "pool-1000"),
            n_blockers=_N_BLOCKERS,
            sleep_ms=400,
            stack_kib=stack_kib,
        )
        for stack_kib in _STACKS_KIB
    ),
    *(
        _case(
            f"executor-{suffix}",
            "executor",
            (*_metrics("us", "map_us", "round_trip_us"), *_metrics("ms", "sleepers_ms")),
            (SUBJECT, "pool-64"),
            n_cpus=n_cpus,
            n_calls=20_000,
            n_sleepers=64,
            sleep_ms=50,
        )
        for suffix, n_cpus in (("one-cpu", 1), ("two-cpus", 2))
    ),
    _case(
        "loop-executor",
        "loop-executor",
        (*_metrics("us", "batch_us", "round_trip_us"), *_metrics("ms", "sleepers_ms")),
        (SUBJECT, "asyncio", "uvloop"),
        n_calls=1000,
        n_sleepers=64,
        sleep_ms=50,
    ),
    *(
        _case(
            f"preempt-{preempt_ms}",
            "computing",
            (*_LAG, *_SLOWDOWN),
            (SUBJECT,),
            compute_ms=100,
            short_ms=4,
            preempt_ms=preempt_ms,
        )
        for preempt_ms in _PREEMPT_MS
    ),
)

_LEGEND = (
    "threadlets: `await threadlets.call(function)`.",
    "asyncio: `asyncio.to_thread`, whose executor has as many threads as CPUs and four more.",
    "pool-64, pool-1000: asyncio's `run_in_executor` with a `ThreadPoolExecutor` of that size.",
    "uvloop: its `run_in_executor` with a pool of 64. anyio: `to_thread.run_sync` on asyncio, with its "
    "limit of 40, and in blockers-1000 with a limit of 1000.",
    "direct: a coroutine that calls the function itself, and so blocks the loop: the least a call can cost.",
    "noop: ns per `await`; added_ns: less the bare call, timed in the same process.",
    "sleep-1ms: how much longer an awaited call of `time.sleep(0.001)` takes than a bare one.",
    "next-request: the time from the call of a function that blocks for 5 ms until a callback runs that "
    "was ready before; after-rest: with no call in the 100 ms before.",
    "mixed: 20,000 calls from 50 tasks; 90 % take 1 us, 8 % block for 2 ms once in a hundred, 2 % "
    "block for 1 ms. loop_lag: the delay of a request that comes every millisecond. quick: the time of a "
    "call among the 90 %.",
    "cpu-bound, preempt-N (always inline): a function computes for 100 ms. request_lag: the delay of "
    "requests that come meanwhile. slowdown: the function's time divided by its time alone; short: the "
    "same for ten functions of 4 ms.",
    "blockers, stack: 1000 times `time.sleep` at once; stack: after `threading.stack_size(N)`. "
    "threads_left: how many threads there are 3 s later, the main thread not counted.",
    "executor: `ThreadletExecutor` and `ThreadPoolExecutor(64)`, without a loop. loop-executor: "
    '`run_in_executor(None, …)`, on `threadlets.new_event_loop(executor="threadlets")`.',
)

SCENARIO = Scenario(
    name="calls",
    doc="Plain functions called from coroutines: ones that return, block, or compute; and executors.",
    cases=CASES,
    measure=measure,
    # Most loads are of a fixed size, and take longer.
    seconds=0.5,
    legend=_LEGEND,
    peers=(SUBJECT, "asyncio", "pool-64", "pool-1000", "uvloop", "anyio", "direct"),
)
