"""The memory of a request that waits, and how soon very many are created and woken.

The claims: a wait without a coroutine takes at most 128 bytes, a coroutine 600 or, asleep, 900; a
million are created in 3 s and woken in 1 s. Other peers are measured at 20,000, since a million of
theirs take minutes and gigabytes.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

from benches.peers import PEERS, SUBJECT
from benches.placement import python, run_pinned
from benches.requests.capacity import need_of, require_memory
from benches.scenario import Case, MeasurementFailed, Metric, NotApplicable, Scenario

if TYPE_CHECKING:
    from benches.scenario import Budget, Figures

_ALL = (*PEERS, "trio", "gevent")
_N_EACH = 20_000
_N_MANY = 1_000_000
#: The most that one process may take beside its sleeps, in seconds and, for each request, in us.
_TIMEOUT_S = 60
_TIMEOUT_US_EACH = 120
#: How long sleeps last beyond the time that it takes to create them.
_SLEEP_S = 0.5
_N_ATTEMPTS = 3


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Park in one fresh interpreter, pinned to the server's CPU; repeat if sleeps were too short."""
    load, n = str(case.parameters["load"]), int(case.parameters["n"])
    if load == "park-native" and not hasattr(importlib.import_module(SUBJECT), "Scope"):
        raise NotApplicable("this threadlets has no scopes")
    require_memory(peer, n)
    lead_s = _SLEEP_S + n * need_of(peer).create_us_each / 1e6
    for _ in range(_N_ATTEMPTS):
        argv = python("benches.requests", peer, load, json.dumps({"n": n, "lead_s": lead_s}))
        timeout_s = _TIMEOUT_S + lead_s + n * _TIMEOUT_US_EACH / 1e6
        printed = run_pinned(argv, {budget.placement.server_cpu}, timeout_s)
        figures: Figures = json.loads(printed)
        if "late_s" not in figures:
            return figures
        lead_s = 1.5 * (lead_s + figures["late_s"])
    raise MeasurementFailed(f"{n} sleeps of {lead_s:.1f} s were over before all had begun.")


def _case(kind: str, n: int, bytes_max: int, peers: tuple[str, ...]) -> Case:
    create_goal, wake_goal = ("<=3", "<=1") if n == _N_MANY else (None, None)
    metrics = (
        Metric("bytes_each", "B", "lower", f"<={bytes_max}"),
        Metric("create_us_each", "us", "lower", create_goal),
        Metric("wake_us_each", "us", "lower", wake_goal),
    )
    return Case(f"{kind}-{n}", metrics, {"load": f"park-{kind}", "n": n}, peers)


SCENARIO = Scenario(
    name="parked",
    doc="Very many requests that wait: the memory of each, and the time to create and to wake all.",
    cases=tuple(
        case
        for n, peers in ((_N_EACH, _ALL), (_N_MANY, (SUBJECT,)))
        for case in (
            _case("future", n, 600, peers),
            _case("sleep", n, 900, peers),
            _case("native", n, 128, (SUBJECT,)),
        )
    ),
    measure=measure,
    peers=_ALL,
    legend=(
        "future-N: N tasks, each awaits a future of its own (in trio and gevent, an event); then all are "
        "set.",
        "sleep-N: N tasks that sleep until the same time, and wake by the clock. native-N: "
        "`scope.start(threadlets.sleep(seconds))`, which is no coroutine.",
        "bytes_each: the growth of the process (RSS), for each; the benchmark's own lists are not "
        "counted. The garbage collector is off.",
        "create_us_each: the time to create each, until all wait. wake_us_each: the time from the first "
        "wake-up, or from the end of the sleeps, until all have ended, for each. 1 us for each of a "
        "million is a second.",
    ),
)
