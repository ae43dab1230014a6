"""The loads: ApacheBench, wrk, and the load generator's slow readers and open connections."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import subprocess
import time
from typing import TYPE_CHECKING

from benches import load
from benches.placement import ROOT, confined, run_pinned
from benches.scenario import MeasurementFailed
from benches.seed.plan import PORT
from benches.storm import figures_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benches.scenario import Figures
    from benches.seed.plan import Plan

#: The most that one load takes, in seconds.
TIMEOUT_S = 240
#: In a shorter time wrk does little but connect.
_KEPT_MIN_S = 2
#: A slow reader takes so much, then pauses.
_READ_BYTES, _PAUSE_S = 16 * 1024, 0.02
#: Asked for; the kernel takes twice as much.
_RECEIVE_BUFFER = 16 * 1024
#: A server that answers no faster has fewer requests.
_SLOW_MAX_S = 30
#: An answer that takes longer counts as failed.
_ANSWER_S = 60
_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}


def new(plan: Plan) -> Figures:
    """Ask by ab, a connection for each request."""
    argv = ["ab", "-q", "-r", "-s", str(_ANSWER_S), "-c", str(plan.n_connections)]
    printed, load_busy = _run([*argv, "-n", str(plan.n_requests), plan.url], plan)
    return ab_figures(printed) | {"load_busy": load_busy}


def kept(plan: Plan) -> Figures:
    """Ask by wrk, on connections that stay open."""
    seconds = round(max(_KEPT_MIN_S, plan.seconds))
    argv = ["wrk", "-t", "1", "-c", str(plan.n_connections), "-d", f"{seconds}s"]
    printed, load_busy = _run([*argv, "--timeout", f"{_ANSWER_S}s", "--latency", plan.url], plan)
    return wrk_figures(printed) | {"load_busy": load_busy}


def slow(plan: Plan) -> Figures:
    """Ask by readers that take a part and pause, a connection for each answer."""
    argv = [str(load.build()), "slow", *_generator(plan), "--total", str(plan.n_requests)]
    argv += ["--read", str(_READ_BYTES), "--pause-s", str(_PAUSE_S), "--seconds", str(_SLOW_MAX_S)]
    printed, load_busy = _run([*argv, "--receive-buffer", str(_RECEIVE_BUFFER)], plan)
    return slow_figures(json.loads(printed)) | {"load_busy": load_busy}


@contextlib.contextmanager
def holding(plan: Plan, *, is_stalled: bool) -> Iterator[None]:
    """Keep connections open for the length of the block: idle after an answer, or in its middle.

    :raises MeasurementFailed: they could not be opened.
    """
    argv = [str(load.build()), "hold", *_generator(plan), "--stalled", str(int(is_stalled))]
    if is_stalled:
        argv += ["--receive-buffer", str(_RECEIVE_BUFFER)]
    with confined(set(plan.load_cpus)):
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if not process.stdout.readline():
                raise MeasurementFailed(f"{' '.join(argv)}: {process.stderr.read().strip()}")
            yield
        finally:
            process.kill()


def ab_figures(printed: str) -> Figures:
    """Return the figures in ab's output.

    :raises MeasurementFailed: there is no rate in it.
    """
    found = figures_of(printed)
    if "requests_per_s" not in found:
        raise MeasurementFailed(f"ab printed no rate: {printed.strip()[-500:]}")
    figures = {
        "requests_per_s": found["requests_per_s"],
        "n_requests": found["n_requests"],
        "n_errors": found.get("n_errors", 0) + found.get("n_refusals", 0),
    }
    for percent in (50, 99):
        if match := re.search(rf"^\s*{percent}%\s+(\d+)$", printed, re.MULTILINE):
            figures[f"latency_ms_p{percent}"] = float(match[1])
    return figures


def wrk_figures(printed: str) -> Figures:
    """Return the figures in wrk's output.

    :raises MeasurementFailed: there is no number of requests in it.
    """
    total = re.search(r"^\s*(\d+) requests in ", printed, re.MULTILINE)
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", printed, re.MULTILINE)
    if total is None or rate is None:
        raise MeasurementFailed(f"wrk printed no rate: {printed.strip()[-500:]}")
    figures = {"requests_per_s": float(rate[1]), "n_requests": float(total[1])}
    for percent in (50, 99):
        found = re.search(rf"^\s*{percent}%\s+([\d.]+)(us|ms|s|m|h)$", printed, re.MULTILINE)
        if found is not None:
            figures[f"latency_ms_p{percent}"] = float(found[1]) * _UNITS_MS[found[2]]
    errors = re.search(r"Socket errors: (.*)", printed)
    refusals = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    n_errors = sum(map(int, re.findall(r"\d+", errors[1]))) if errors else 0
    return figures | {"n_errors": float(n_errors + (int(refusals[1]) if refusals else 0))}


def slow_figures(report: dict[str, float]) -> Figures:
    """Return the figures in a report of the load generator.

    :raises MeasurementFailed: no answer came.
    """
    if not report["n_messages"]:
        raise MeasurementFailed(f"No answer came; errors: {report['errors']}.")
    return {
        "requests_per_s": report["messages_per_s"],
        "n_requests": report["n_messages"],
        "n_errors": report["n_errors"],
        "latency_ms_p50": report["latency_us_p50"] / 1000,
        "latency_ms_p99": report["latency_us_p99"] / 1000,
    }


def _generator(plan: Plan) -> list[str]:
    options = ["--port", str(PORT), "--connections", str(plan.n_connections)]
    return [*options, "--size", str(plan.n_bytes), "--path", plan.path]


def _run(argv: list[str], plan: Plan) -> tuple[str, float]:
    """Run a load to its end; return what it printed, and how many CPUs it kept busy."""
    before_s, began_s = _children_s(), time.monotonic()
    printed = run_pinned(argv, set(plan.load_cpus), TIMEOUT_S)
    return printed, (_children_s() - before_s) / (time.monotonic() - began_s)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
