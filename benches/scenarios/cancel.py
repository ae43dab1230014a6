"""Cancelling very many requests at once: how long it takes, holds up the loop, and what is left.

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
#: What only we are asked for: others take minutes and gigabytes.
_N_MANY = 1_000_000
#: One descriptor for each, below what many systems allow.
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
    doc="Very many requests that wait, cancelled at once: time for each, and how long the loop stood.",
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
        "tasks-…-N: each of N tasks is cancelled, `task.cancel()`; in gevent, `killall`. sleep: it "
        "sleeps for an hour. receive: `loop.sock_recv`, each on a datagram socket of its own.",
        "scope-…-N: what holds them is cancelled: `scope.cancel()`; in asyncio and uvloop, the task "
        "whose `asyncio.TaskGroup` it is; in trio, the nursery's cancel scope. scope-native-N: "
        "`scope.start(threadlets.sleep(seconds))`, which is no coroutine.",
        "cancel_us_each: from the first call until all have ended. frozen_ms: the longest that a task "
        "did not wake meanwhile which sleeps 1 ms at a time.",
        "rss_left_mib: what the process is larger than before (RSS), when nothing refers to them any "
        "more. Descriptors are counted too, and shown if any is left.",
    ),
)
