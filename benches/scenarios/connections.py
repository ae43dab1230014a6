"""A storm of connections: the CPU time of a request that comes on a connection of its own.

The claim: at most 0.9 times that of uvloop, whatever the number of concurrent connections.
"""

from __future__ import annotations

import json
import shutil

from benches.connections import TIMEOUT_S
from benches.network import namespace
from benches.placement import python, run_pinned
from benches.scenario import Budget, Case, Figures, Metric, NotApplicable, Scenario

_N_CONNECTIONS = (100, 1000, 8000)
#: About as many as a server answers; a storm has a number of requests rather than a duration.
_REQUESTS_PER_S = 10_000


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Load one fresh server in a network namespace of its own, from the other CPU."""
    if shutil.which("ab") is None:
        raise NotApplicable("ab is not on the PATH; apt install apache2-utils")
    n_connections = int(case.parameters["n_connections"])
    # At least two requests for each of the concurrent connections.
    n_requests = max(2 * n_connections, round(budget.seconds * _REQUESTS_PER_S))
    cpus = (budget.placement.server_cpu, budget.placement.load_cpu)
    numbers = map(str, (n_connections, n_requests, *cpus))
    argv = [*namespace(), *python("benches.connections", peer, *numbers)]
    # Each side is pinned where it is started.
    figures: Figures = json.loads(run_pinned(argv, set(cpus), 2 * TIMEOUT_S))
    return figures


def _case(n_connections: int) -> Case:
    return Case(
        name=f"uvicorn-{n_connections}",
        metrics=(
            Metric("server_cpu_us_per_request", "us", "lower", "<=0.9x uvloop"),
            Metric("requests_per_s", "req/s", "higher"),
            Metric("n_listen_overflows", "overflows", "lower"),
            Metric("n_errors", "errors", "lower"),
        ),
        parameters={"n_connections": n_connections},
    )


SCENARIO = Scenario(
    name="connections",
    doc="uvicorn with httptools under `ab -c N`: 13 bytes, a connection for each request.",
    cases=tuple(_case(n) for n in _N_CONNECTIONS),
    measure=measure,
    legend=(
        "server_cpu: the CPU time of the server process, user and system. Its backlog is 16384, in a "
        "network namespace of its own.",
        "requests_per_s: bounded by ab, which takes about as long for a request as the server does.",
    ),
)
