"""TCP echo of 1 KiB, a closed loop over 1, 64 and 1024 connections, in every style of server."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from benches import load
from benches.peers import CEILING
from benches.scenario import Case, Metric, NotApplicable, Scenario

if TYPE_CHECKING:
    from benches.scenario import Budget, Figures

_MESSAGE_SIZE = 1024
_GOALS = {
    "protocol": ">=1.1x uvloop",
    "buffered": None,
    "streams": ">=1.8x uvloop",
    "sock": ">=3x uvloop",
}


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Load one fresh server; the load runs on its CPU or on the other."""
    style = str(case.parameters["style"])
    if peer == CEILING and style != "protocol":
        raise NotApplicable("The ceiling has one style: protocol.")
    if case.parameters["cpus"] == "same":
        budget = dataclasses.replace(budget, placement=budget.placement.together)
    n_connections = int(case.parameters["n_connections"])
    return load.measure("echo", style, n_connections, _MESSAGE_SIZE, peer, budget)


def _case(style: str, n_connections: int, cpus: str) -> Case:
    single = n_connections == 1
    suffix = f"-{cpus}-cpu" if single else ""
    return Case(
        name=f"{style}-{n_connections}{suffix}",
        metrics=(
            Metric("messages_per_s", "msg/s", "higher", None if single else _GOALS[style]),
            Metric("latency_us_p50", "us", "lower", "<=1x uvloop" if single else None),
            Metric("latency_us_p99", "us", "lower"),
            Metric("server_cpu_us_per_message", "us", "lower"),
        ),
        parameters={"style": style, "n_connections": n_connections, "cpus": cpus},
    )


SCENARIO = Scenario(
    name="echo",
    doc="TCP echo of 1 KiB: messages/s, latency, and the server's CPU time per message.",
    cases=tuple(
        _case(style, n_connections, cpus)
        for style in _GOALS
        for n_connections, cpus in ((1, "other"), (1, "same"), (64, "other"), (1024, "other"))
        # The origin of the buffer matters only under load, so one connection tells nothing new.
        if style != "buffered" or n_connections == 64
    ),
    measure=measure,
    seconds=0.7,
    two_sided=True,
)
