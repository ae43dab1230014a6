"""A storm of connections at uvicorn, in a network namespace of its own: there the backlog can hold
all connections, and the kernel's counters are those of this server alone.

``unshare --net python -m benches.connections PEER N_CONNECTIONS N_REQUESTS SERVER_CPU LOAD_CPU`` prints
the figures as JSON. ``python -m benches.connections serve PEER`` is the server, which prints its port.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING, Any

from benches import network, peers
from benches.placement import python, raise_file_limit, run_pinned, serving
from benches.servers import settle_heap
from benches.storm import cpu_seconds, figures_of

if TYPE_CHECKING:
    from benches.scenario import Figures

#: Holds every connection of the widest storm.
_BACKLOG = 16384
#: The number of requests before counting starts, and of their concurrent connections.
_N_WARMUP, _N_WARMUP_CONNECTIONS = 2000, 50
#: The most that one storm takes, in seconds.
TIMEOUT_S = 300
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")],
}
_BODY = {"type": "http.response.body", "body": b"Hello, world!"}


def drive(
    peer: str, n_connections: int, n_requests: int, server_cpus: set[int], load_cpus: set[int]
) -> Figures:
    """Load one fresh server, a connection for each request.

    :raises MeasurementFailed: a process failed or took too long.
    """
    raise_file_limit()
    network.raise_loopback()
    network.set_kernel("net.core.somaxconn", str(_BACKLOG))
    with serving(python("benches.connections", "serve", peer), server_cpus) as (pid, first_line):
        url = f"http://127.0.0.1:{json.loads(first_line)['port']}/"
        _storm(url, _N_WARMUP_CONNECTIONS, _N_WARMUP, load_cpus)
        cpu_before_s, overflows_before = cpu_seconds(pid), network.n_listen_overflows()
        figures = _storm(url, n_connections, n_requests, load_cpus)
        cpu_us = (cpu_seconds(pid) - cpu_before_s) * 1e6
        figures["server_cpu_us_per_request"] = cpu_us / max(figures["n_requests"], 1)
        figures["n_listen_overflows"] = network.n_listen_overflows() - overflows_before
    return figures


def serve(peer: str) -> None:
    """Answer until killed."""
    import uvicorn

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(_BACKLOG)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    settle_heap()
    config = uvicorn.Config(
        _answer,
        http="httptools",
        interface="asgi3",
        lifespan="off",
        log_level="warning",
        access_log=False,
        backlog=_BACKLOG,
    )
    peers.run(peer, uvicorn.Server(config).serve(sockets=[listener]))


async def _answer(_scope: Any, _receive: Any, send: Any) -> None:
    await send(_START)
    await send(_BODY)


def _storm(url: str, n_connections: int, n_requests: int, cpus: set[int]) -> Figures:
    argv = ["ab", "-q", "-r", "-s", str(TIMEOUT_S), "-c", str(n_connections)]
    return figures_of(run_pinned([*argv, "-n", str(n_requests), url], cpus, TIMEOUT_S))


def main(argv: list[str]) -> None:
    """Serve, or measure a server."""
    if argv[0] == "serve":
        serve(argv[1])
        return
    peer, *numbers = argv
    n_connections, n_requests, server_cpu, load_cpu = map(int, numbers)
    print(json.dumps(drive(peer, n_connections, n_requests, {server_cpu}, {load_cpu})))


if __name__ == "__main__":
    main(sys.argv[1:])
