"""Isolation of floating-point state: requests with different rounding modes, compared with MPFR."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from benches.peers import CEILING
from benches.placement import python, run_pinned
from benches.scenario import Case, Metric, NotApplicable, Scenario

if TYPE_CHECKING:
    from benches.scenario import Budget, Figures

#: A measurement of two seconds has ten million.
_N_OPERATIONS_PER_S = 5_000_000


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Perform the operations on one fresh interpreter; return how many results are wrong."""
    if peer == CEILING:
        raise NotApplicable("The ceiling computes nothing.")
    n_operations = int(budget.seconds * _N_OPERATIONS_PER_S)
    cpus = {budget.placement.server_cpu, budget.placement.load_cpu}
    argv = python("benches.fp_torture", peer, str(n_operations))
    figures: Figures = json.loads(run_pinned(argv, cpus, timeout_s=120 + 60 * budget.seconds))
    del figures["wrong_by_kind"]
    return figures


SCENARIO = Scenario(
    name="fp",
    doc="Wrong results of requests that each set their own rounding, among some that do not restore it.",
    cases=(
        Case(
            "torture",
            (
                Metric("n_wrong", "results", "lower", "<=0"),
                Metric("wrong_percent", "%", "lower"),
                Metric("operation_ns", "ns", "lower"),
            ),
            {"n_operations_per_s": _N_OPERATIONS_PER_S},
        ),
    ),
    measure=measure,
    seconds=0.5,
    peers=("threadlets", "asyncio", "uvloop", "trio", "gevent"),
    legend=("gevent: each greenlet has control registers of its own, but errno is the thread's.",),
)
