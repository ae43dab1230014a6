"""What workers share and are told: metrics of all of them, who takes whose place, and how many they are."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import wait_until

from .conftest import DEADLINE_S, RunCommand, Served

Serve = Callable[..., Served]

_APP = """
import asyncio, os
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        print("websocket open", flush=True)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    if scope["path"] == "/forever":
        print("request in flight", flush=True)
        await asyncio.Event().wait()
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

def wsgi(environ, start_response):
    body = f"several: {environ['wsgi.multiprocess']}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
_TO = ("team_app:app", "--port", "0", "--no-access-log")


@pytest.fixture(autouse=True)
def _app(tmp_path: Path) -> None:
    (tmp_path / "team_app.py").write_text(_APP)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(port: int, path: str = "/") -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode())
        received = b""
        while data := client.recv(65536):
            received += data
    return received.decode().partition("\r\n\r\n")[2]


def _metrics(port: int, path: str = "/metrics") -> dict[str, float]:
    lines = [it for it in _get(port, path).splitlines() if it and not it.startswith("#")]
    return {name: float(value) for name, _, value in (it.rpartition(" ") for it in lines)}


def _ask_all(port: int, n_workers: int) -> tuple[set[str], int]:
    """Ask until so many workers have answered; return their process ids, and how many requests that took."""
    answers: list[str] = []
    wait_until(lambda: answers.append(_get(port)) or len(set(answers)) >= n_workers)
    return set(answers), len(answers)


# -- metrics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_port", [False, True])
def test_metrics_are_sums_over_the_workers(serve: Serve, has_port: bool) -> None:
    """On a path whichever worker answers, and on a port of their own, which is one for all."""
    metrics_port = _free_port()
    server = serve(
        *_TO, "--workers", "2", "--metrics", f":{metrics_port}" if has_port else "/metrics"
    )
    port = server.port()
    _, n_requests = _ask_all(port, 2)
    for n_scrapes in range(1, 9):
        found = _metrics(metrics_port if has_port else port)
        # The request of a scrape is one of the server's, unless they have a port of their own.
        n_own = 0 if has_port else n_scrapes
        assert n_requests + n_own == found["threadlets_requests_total"]
        assert n_own - bool(n_own) + n_requests == found['threadlets_responses_total{status="2xx"}']
        assert bool(n_own) == found["threadlets_in_flight"]


def test_counters_never_go_down(serve: Serve) -> None:
    """When a worker is killed its counts stay, and what was open in it is not open any more."""
    metrics_port = _free_port()
    server = serve(*_TO, "--workers", "2", "--metrics", f":{metrics_port}")
    port = server.port()
    workers, n_requests = _ask_all(port, 2)
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as client:
        client.sendall(b"GET /forever HTTP/1.1\r\nhost: test\r\n\r\n")
        server.wait_for("request in flight")
        found = _metrics(metrics_port)
        assert (1, 1) == (found["threadlets_in_flight"], found["threadlets_connections"])
        for worker in workers:
            os.kill(int(worker), signal.SIGKILL)
        server.wait_for("(?s)SIGKILL.*SIGKILL")
        new_workers, n_later = _ask_all(port, 2)
    assert not workers & new_workers
    found = _metrics(metrics_port)
    assert n_requests + 1 + n_later == found["threadlets_requests_total"]
    assert n_requests + n_later == found['threadlets_responses_total{status="2xx"}']
    assert 0 == found["threadlets_in_flight"]
    wait_until(lambda: _metrics(metrics_port)["threadlets_connections"] == 0)


def test_a_reload_keeps_the_counts(serve: Serve) -> None:
    """Of the workers that were there before."""
    server = serve(*_TO, "--workers", "2", "--metrics", "/metrics")
    port = server.port()
    _, n_before = _ask_all(port, 2)
    for _ in range(2):
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("Reloaded")
        server.output = ""
    _, n_after = _ask_all(port, 2)
    assert n_before + n_after + 1 == _metrics(port)["threadlets_requests_total"]


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_a_taken_port_of_metrics_is_refused(command: RunCommand, workers: tuple[str, ...]) -> None:
    """With the option that chooses another one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = command("serve", *_TO, "--metrics", f":{port}", *workers)
    assert 1 == done.returncode
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "another port with --metrics" in done.stderr


# -- who takes whose place -------------------------------------------------------------------------


def _websocket(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    client.sendall(
        b"GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += client.recv(1)
    assert received.startswith(b"HTTP/1.1 101")
    return client


def _close_code(client: socket.socket) -> int:
    received = b""
    while len(received) < 4:
        data = client.recv(65536)
        assert data, received
        received += data
    # A close frame, with two bytes at least.
    assert (0x88, True) == (received[0], received[1] >= 2)
    return int.from_bytes(received[2:4], "big")


def _answer_close(client: socket.socket) -> None:
    client.sendall(b"\x88\x80\0\0\0\0")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_reload_closes_websockets_with_1012(serve: Serve, workers: str) -> None:
    """Service restart: clients may come again at once (RFC 6455's registry)."""
    server = serve(*_TO, "--workers", workers)
    with _websocket(server.port()) as client:
        server.wait_for("websocket open")
        server.process.send_signal(signal.SIGHUP)
        assert 1012 == _close_code(client)
        _answer_close(client)
        server.wait_for("Reloaded")


@pytest.mark.parametrize("workers", [(), ("--workers", "2"), ("--reload",)])
def test_a_stop_closes_websockets_with_1001(serve: Serve, workers: tuple[str, ...]) -> None:
    """The server goes away."""
    server = serve(*_TO, *workers)
    with _websocket(server.port()) as client:
        server.wait_for("websocket open")
        server.process.send_signal(signal.SIGTERM)
        assert 1001 == _close_code(client)
        _answer_close(client)
        assert 0 == server.end()


def test_a_changed_file_closes_websockets_with_1012(serve: Serve, tmp_path: Path) -> None:
    """With --reload, another worker takes the place of the one that ends."""
    server = serve(*_TO, "--reload")
    with _websocket(server.port()) as client:
        server.wait_for("websocket open")
        (tmp_path / "team_app.py").write_text(_APP + "# changed\n")
        assert 1012 == _close_code(client)


# -- how many they are -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "is_multiprocess"),
    [((), False), (("--workers", "1"), False), (("--workers", "2"), True)],
)
def test_wsgi_says_whether_there_are_several(
    serve: Serve, workers: tuple[str, ...], is_multiprocess: bool
) -> None:
    """PEP 3333: applications that keep state in memory look at it."""
    server = serve("team_app:wsgi", "--port", "0", "--no-access-log", *workers)
    assert f"several: {is_multiprocess}" == _get(server.port())
    assert not re.search("Traceback", server.output)
