"""The cost of a loop at a program's start: its import beside asyncio's, its memory, the first run.

The claim: `import threadlets` takes at most 30 ms beside `import asyncio`.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import TYPE_CHECKING

from benches.peers import PEERS
from benches.placement import run_pinned
from benches.scenario import Case, Metric, Scenario

if TYPE_CHECKING:
    from benches.scenario import Budget, Figures

#: How many interpreters are started for one measurement; the median counts.
_N_STARTS = 11
_TIMEOUT_S = 60

# The program loads nothing else, not even the benchmarks.
_PROGRAM = """
import sys, time

def rss_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4

async def nothing():
    pass

import asyncio
before_s, before_kib = time.perf_counter(), rss_kib()
loop = __import__(sys.argv[1])
import_s, import_kib = time.perf_counter() - before_s, rss_kib() - before_kib
before_s = time.perf_counter()
loop.run(nothing())
run_s = time.perf_counter() - before_s
print([1e3 * import_s, import_kib, 1e3 * run_s])
"""


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Start interpreters one after another, pinned to the server's CPU."""
    argv = [sys.executable, "-I", "-c", _PROGRAM, peer]
    cpus = {budget.placement.server_cpu}
    starts = [json.loads(run_pinned(argv, cpus, _TIMEOUT_S)) for _ in range(_N_STARTS)]
    import_ms, import_kib, run_ms = map(statistics.median, zip(*starts, strict=True))
    return {"import_ms": import_ms, "import_kib": import_kib, "run_ms": run_ms}


SCENARIO = Scenario(
    name="start",
    doc="A program's start: importing a loop, and running a coroutine that does nothing.",
    cases=(
        Case(
            "import",
            (
                Metric("import_ms", "ms", "lower", "<=30"),
                Metric("import_kib", "KiB", "lower"),
                Metric("run_ms", "ms", "lower"),
            ),
        ),
    ),
    measure=measure,
    # Not shown: the page has only what was measured on a quiet machine.
    is_published=False,
    peers=PEERS,
    legend=(
        "import_ms, import_kib: time, and memory (RSS), of the import where asyncio is loaded already.",
        "run_ms: the first `run()` of a coroutine that does nothing.",
    ),
)
