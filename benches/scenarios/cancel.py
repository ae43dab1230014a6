"""Cancelling very many requests at once: how long it takes, delays the loop, and what it leaves.

The claims: a coroutine takes at most 2 us, a wait without one 0.1 us.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

from benches.peers import PEERS, SUBJECT
from benches.placement import python, run_pinned
from benches.requests.capacity import require_descriptors, require_memory
from benches.scenario import Case, Metric, NotApplicable, Scenario

if TYPE_CHECKING:
    from benches.scenario import Budget, Figures

_TASKS = (*PEERS, "gevent")
_SCOPES = (*PEERS, "trio")
_N_EACH = 100_000
#: For threadlets only: other peers take minutes and gigabytes.
_N_MANY = 1_000_000
#: Each takes a descriptor; many systems allow more than this.
_N_RECEIVES = 10_000
#: The most that one process may take, in seconds and, for each request, in us.
_TIMEOUT_S = 60
_TIMEOUT_US_EACH = 180


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Cancel in one fresh interpreter, pinned to the server's CPU."""
    load, n = str(case.parameters["load"]), int(case.parameters["n"])
    scoped = peer == SUBJECT and load.startswith("cancel-scope-")
    if scoped and not hasattr(importlib.import_module(SUBJECT), "Scope"):
        raise NotApplicable("this threadlets has no scopes")
    require_memory(peer, n)
    if load.endswith("-receive"):
        require_descriptors(n)
    argv = python("benches.requests", peer, load, json.dumps({"n": n}))
    timeout_s = _TIMEOUT_S + n * _TIMEOUT_US_EACH / 1e6
    figures: Figures = json.loads(run_pinned(argv, {budget.placement.server_cpu}, timeout_s))
    return figures


def _case(kind: str, n: int, goal: str | None, peers: tuple[str, ...]) -> Case:
    metrics = (
        Metric("cancel_us_each", "us", "lower", goal),
        Metric("frozen_ms", "ms", "lower"),
        Metric("rss_left_mib", "MiB", "lower"),
        Metric("n_descriptors_left", "", "lower", "<=0"),
    )
    return Case(f"{kind}-{n}", metrics, {"load": f"cancel-{kind}", "n": n}, peers)


SCENARIO = Scenario(
    name="cancel",
    doc="Very many waiting requests, cancelled at once: the time for each, and how long the loop stands "
    "still.",
    cases=(
        _case("tasks-sleep", _N_EACH, "<=2", _TASKS),
        _case("tasks-sleep", _N_MANY, "<=2", (SUBJECT,)),
        _case("tasks-receive", _N_RECEIVES, None, _TASKS),
        _case("scope-sleep", _N_EACH, "<=2", _SCOPES),
        _case("scope-sleep", _N_MANY, "<=2", (SUBJECT,)),
        _case("scope-receive", _N_RECEIVES, None, _SCOPES),
        *(_case("scope-native", n, "<=0.1", (SUBJECT,)) for n in (_N_EACH, _N_MANY)),
    ),
    measure=measure,
    peers=(*PEERS, "trio", "gevent"),
    legend=(
        "tasks-…-N: each of N tasks is cancelled by `task.cancel()`; in gevent, by `killall`. sleep: it "
        "sleeps for an hour. receive: `loop.sock_recv`, each on a datagram socket of its own.",
        "scope-…-N: the group that holds them is cancelled: `scope.cancel()`; in asyncio and uvloop, the "
        "task that has the `asyncio.TaskGroup`; in trio, the nursery's cancel scope. scope-native-N: "
        "`scope.start(threadlets.sleep(seconds))`, which is no coroutine.",
        "cancel_us_each: the time from the first call until all have ended, for each. frozen_ms: the "
        "longest time meanwhile between two wake-ups of a task that sleeps 1 ms at a time.",
        "rss_left_mib: by how much the process is larger than before (RSS) once nothing refers to the "
        "requests any more. Descriptors are counted too, and shown if any is left.",
    ),
)
