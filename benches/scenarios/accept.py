"""Connection churn: a new connection for every message, steadily and in bursts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benches import load
from benches.peers import CEILING
from benches.scenario import Case, Metric, NotApplicable, Scenario

if TYPE_CHECKING:
    from benches.scenario import Budget, Figures

_MESSAGE_SIZE = 1024
_STYLES = ("protocol", "streams", "sock")


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Load one fresh server, whose backlog of 4096 holds the whole burst."""
    style = str(case.parameters["style"])
    if peer == CEILING and style != "protocol":
        raise NotApplicable("The ceiling has one style: protocol.")
    n_connections = int(case.parameters["n_connections"])
    command = str(case.parameters["command"])
    return load.measure(command, style, n_connections, _MESSAGE_SIZE, peer, budget)


def _case(command: str, style: str, n_connections: int) -> Case:
    return Case(
        name=f"{command}-{n_connections}-{style}",
        metrics=(
            Metric("messages_per_s", "conn/s", "higher"),
            Metric("latency_us_p99", "us", "lower"),
            Metric("server_cpu_us_per_message", "us/conn", "lower"),
            Metric("n_listen_overflows", "overflows", "lower"),
            Metric("n_errors", "errors", "lower"),
        ),
        parameters={"command": command, "style": style, "n_connections": n_connections},
    )


SCENARIO = Scenario(
    name="accept",
    doc="A connection per 1 KiB echo: 64 at a time (churn), and 2000 at once (burst).",
    cases=tuple(
        _case(command, style, n_connections)
        for command, n_connections in (("churn", 64), ("burst", 2000))
        for style in _STYLES
    ),
    measure=measure,
    two_sided=True,
)
