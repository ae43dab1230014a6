"""How late another process on the server's CPU wakes while a storm of requests loads the server.

The claim: threadlets serves a storm without being a worse neighbour than nginx.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time

from benches.peers import SUBJECT
from benches.placement import peak_rss_mib, python, run_pinned, serving
from benches.scenario import Budget, Case, Metric, Reading, Scenario
from benches.storm import blowing, cpu_seconds

_N_CONNECTIONS = 2000
#: How much longer than planned a measurement may take before the storm ends, in seconds.
_SECONDS_MAX = 20


def measure(case: Case, peer: str, budget: Budget) -> Reading:
    """Load one fresh server from the other CPU, and watch a bystander on the server's own."""
    cpus = {budget.placement.server_cpu}
    if peer == "alone":
        return _watch(cpus, budget.seconds)
    n_connections = int(case.parameters["n_connections"])
    seconds_max = budget.warmup_s + budget.seconds + _SECONDS_MAX
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="threadlets-bench-"))
        argv = python("benches.http_servers", peer, str(case.parameters["style"]), directory)
        pid, first_line = stack.enter_context(serving(argv, cpus))
        port = int(json.loads(first_line)["port"])
        load_cpus = {budget.placement.load_cpu}
        with blowing(port, n_connections, seconds_max, load_cpus) as storm:
            time.sleep(budget.warmup_s)
            started_s = time.perf_counter()
            cpu_before_s = cpu_seconds(pid)
            reading = _watch(cpus, budget.seconds)
            busy = (cpu_seconds(pid) - cpu_before_s) / (time.perf_counter() - started_s)
        figures = storm.figures | {"server_busy": busy, "server_rss_mib": peak_rss_mib(pid)}
    return Reading(reading.figures | figures, reading.histograms)


def _watch(cpus: set[int], seconds: float) -> Reading:
    argv = python("benches.bystander", str(seconds))
    return Reading(**json.loads(run_pinned(argv, cpus, timeout_s=60 + 5 * seconds)))


def _case(name: str, style: str, peers: tuple[str, ...], goal: str | None) -> Case:
    return Case(
        name=name,
        metrics=(
            Metric("late_us_p50", "us", "lower"),
            Metric("late_us_p99", "us", "lower", goal),
            Metric("late_us_max", "us", "lower"),
            Metric("requests_per_s", "req/s", "higher"),
            Metric("server_busy", "CPU", "lower"),
            Metric("n_errors", "errors", "lower"),
        ),
        parameters={"style": style, "n_connections": _N_CONNECTIONS},
        peers=peers,
    )


SCENARIO = Scenario(
    name="bystander",
    doc="How late another process on the server's CPU wakes while `ab -c 2000` loads the server: 1 KiB "
    "and a connection for each request.",
    cases=(
        _case("storm", "at-once", (SUBJECT, "asyncio", "uvloop", "nginx", "alone"), "<=1x nginx"),
        _case("storm-half-blocking", "half-blocking", (SUBJECT, "asyncio", "uvloop"), None),
    ),
    measure=measure,
    seconds=2,
    peers=(SUBJECT, "asyncio", "uvloop", "nginx", "alone"),
    legend=(
        "late: the time from the deadline of an absolute sleep, one each millisecond, to the wake-up.",
        "nginx: one process, a static file. alone: no server and no load.",
        "half-blocking: every second answer comes after a call of `time.sleep(0.001)`, through "
        "`threadlets.call`, `asyncio.to_thread`, and uvloop's `run_in_executor` with 64 threads.",
    ),
)
