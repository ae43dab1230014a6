"""The cost of a syslet: of a transition from atom to atom, and of a wait.

The claim: a transition takes at most 20 ns.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

from benches.peers import SUBJECT
from benches.placement import python, run_pinned
from benches.scenario import Case, Metric, NotApplicable, Scenario
from benches.syslets.waiting import RING

if TYPE_CHECKING:
    from benches.scenario import Budget, Figures

_N_ATOMS = 1000
_N_TIMEOUTS = (10_000, 100_000)
_N_RECEIVES = 4000


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Run one load in one fresh interpreter, pinned to the server's CPU."""
    if peer == SUBJECT and not hasattr(importlib.import_module(SUBJECT), "syslet"):
        raise NotApplicable("this threadlets has no syslet")
    load = str(case.parameters["load"])
    argv = python(
        "benches.syslets", peer, load, str(budget.seconds), json.dumps(dict(case.parameters))
    )
    printed = run_pinned(argv, {budget.placement.server_cpu}, timeout_s=60 + 5 * budget.seconds)
    figures: Figures = json.loads(printed)
    return figures


def _waiting(name: str, load: str, n: int) -> Case:
    metrics = (
        Metric("bytes_each", "B", "lower"),
        Metric("start_us_each", "us", "lower"),
        Metric("cancel_us_each", "us", "lower"),
    )
    return Case(
        f"{name}-{n}", metrics, {"load": load, "n": n}, (SUBJECT, RING, "asyncio", "uvloop")
    )


SCENARIO = Scenario(
    name="syslet",
    doc="The time from one atom to the next, and the memory of syslets that wait.",
    cases=(
        Case(
            "transition",
            (Metric("atom_ns", "ns", "lower", "<=20"), Metric("run_ns", "ns", "lower")),
            {"load": "transitions", "n_atoms": _N_ATOMS},
            (SUBJECT, "generator"),
        ),
        *(_waiting("timeout", "timeouts", n) for n in _N_TIMEOUTS),
        _waiting("receive", "receives", _N_RECEIVES),
    ),
    measure=measure,
    peers=(SUBJECT, RING, "generator", "asyncio", "uvloop"),
    legend=(
        f"transition: a program of {_N_ATOMS} atoms, every second of which counts, run in the calling "
        "thread; run_ns: a program of two atoms. generator: a Python generator that yields as often, and a "
        "loop that resumes it.",
        "timeout-N: N runs wait for an hour at once. receive-N: N runs wait for a byte, each on a socket of "
        "its own. completion-ring: runs of a syslet, started and collected without tasks. threadlets: tasks "
        "that await such runs. asyncio, uvloop: tasks on `asyncio.sleep`, `loop.sock_recv`.",
        "bytes_each: the growth of the process (RSS), for each; cancel_us_each: the time to cancel and to "
        "await each.",
    ),
)
