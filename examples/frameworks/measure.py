"""Measure plain functions behind frameworks, in worker threads and as threadlets.

    python -m examples.frameworks.measure [--seconds 3] [--rounds 3]

Each server runs alone, on the first CPU; the load runs on the second. A connection sends its next
request as soon as it has its answer. The variants of a case alternate; every measurement is printed,
and their medians at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import a2wsgi
import threadlets
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from threadlets.frameworks import use_threadlets_in_anyio, wsgi

_WARM_UP_S = 0.5
_SLEEP_S = 0.01
_SERVER_CPU, _LOAD_CPU = 0, 1


class Case(NamedTuple):
    """One comparison: a request, a number of connections, and the servers to compare."""

    name: str
    request: bytes
    n_connections: int
    variants: tuple[str, ...]


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


_POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 200\r\n\r\n" + b"x" * 200
_STARLETTE = ("worker threads", "threadlets")
_WSGI = ("a2wsgi's threads", "wsgi()")

CASES = (
    Case("quick endpoint", _get("/quick"), 1, _STARLETTE),
    Case("quick endpoint", _get("/quick"), 20, (*_STARLETTE, "async def")),
    Case("endpoint that sleeps 10 ms", _get("/sleep"), 100, _STARLETTE),
    Case("WSGI, GET", _get("/"), 20, _WSGI),
    Case("WSGI, POST of 200 bytes", _POST, 20, _WSGI),
)


@dataclass(frozen=True)
class Outcome:
    """One measurement, or the medians of several."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return (
            f"{self.requests_per_s:8.0f} /s  p50 {self.p50_ms:7.3f} ms  p99 {self.p99_ms:7.3f} ms"
        )


# -- the servers -------------------------------------------------------------------------------------


def _quick(_request: object) -> JSONResponse:
    return JSONResponse({"n": 1})


async def _quick_coroutine(_request: object) -> JSONResponse:
    return JSONResponse({"n": 1})


def _sleep(_request: object) -> JSONResponse:
    time.sleep(_SLEEP_S)
    return JSONResponse({"n": 1})


def _wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] == "POST":
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


def _make_app(variant: str) -> Any:
    if variant == "a2wsgi's threads":
        return a2wsgi.WSGIMiddleware(_wsgi_app)
    if variant == "wsgi()":
        return wsgi(_wsgi_app)
    if variant == "threadlets":
        use_threadlets_in_anyio()
    quick = _quick_coroutine if variant == "async def" else _quick
    return Starlette(routes=[Route("/quick", quick), Route("/sleep", _sleep)])


async def _serve(variant: str) -> None:
    config = uvicorn.Config(_make_app(variant), port=0, loop="none", access_log=False)
    config.log_level = "warning"
    config.configure_logging()
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


# -- the load ----------------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """Sends a request, waits for the whole answer, and repeats that until the end."""

    def __init__(self, request: bytes, end_s: float, latencies_s: list[float]) -> None:
        self._request = request
        self._end_s = end_s
        self._latencies_s = latencies_s
        self._received = b""
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
        if not found or len(body) < length:
            return
        assert head.startswith(b"HTTP/1.1 200"), head
        self._received = b""
        self._latencies_s.append(time.perf_counter() - self._asked_s)
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_over.done():
            self.is_over.set_exception(error or ConnectionError("the server has hung up"))

    def _ask(self) -> None:
        self._asked_s = time.perf_counter()
        if self._asked_s < self._end_s:
            self._transport.write(self._request)
        else:
            self.is_over.set_result(None)
            self._transport.close()


async def _load(port: int, case: Case, seconds: float) -> Outcome:
    loop = asyncio.get_running_loop()
    latencies_s: list[float] = []
    end_s = time.perf_counter() + seconds

    def connect() -> Any:
        make = lambda: _Connection(case.request, end_s, latencies_s)  # noqa: E731
        return loop.create_connection(make, "127.0.0.1", port)

    connections = [(await connect())[1] for _ in range(case.n_connections)]
    await asyncio.gather(*(it.is_over for it in connections))
    percentiles = statistics.quantiles(latencies_s, n=100)
    return Outcome(len(latencies_s) / seconds, percentiles[49] * 1e3, percentiles[98] * 1e3)


def _measure(case: Case, variant: str, seconds: float) -> Outcome:
    command = [sys.executable, "-m", "examples.frameworks.measure", "--serve", variant]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            threadlets.run(_load(port, case, _WARM_UP_S))
            return threadlets.run(_load(port, case, seconds))
        finally:
            server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of each variant")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {_SERVER_CPU if arguments.serve else _LOAD_CPU})
    if arguments.serve:
        threadlets.run(_serve(arguments.serve))
        return
    medians = []
    for case in CASES:
        outcomes: dict[str, list[Outcome]] = {variant: [] for variant in case.variants}
        for _ in range(arguments.rounds):
            for variant, measured in outcomes.items():
                measured.append(_measure(case, variant, arguments.seconds))
                print(f"{case.name}, {case.n_connections}: {variant:16} {measured[-1]}", flush=True)
        medians += [(case, variant, _median(measured)) for variant, measured in outcomes.items()]
    print("\nmedians")
    for case, variant, outcome in medians:
        print(f"{case.name}, {case.n_connections} connections: {variant:16} {outcome}")


def _median(outcomes: list[Outcome]) -> Outcome:
    rows = [asdict(it) for it in outcomes]
    return Outcome(**{name: statistics.median(row[name] for row in rows) for name in rows[0]})


if __name__ == "__main__":
    main()
