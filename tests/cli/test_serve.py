"""`threadlets serve`: requests, graceful and forced stops, TCP and Unix sockets."""

from __future__ import annotations

import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from threadlets.http._listen import bind_tcp

from .conftest import DEADLINE_S, Served

Serve = Callable[..., Served]


@contextmanager
def _asked(port: int, path: str) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode())
        yield client


def _answer(client: socket.socket, ending: bytes = b"Loop") -> str:
    received = b""
    while not received.endswith(ending):
        data = client.recv(65536)
        if not data:
            break
        received += data
    return received.decode()


def test_app_is_served_on_our_loop(serve: Serve) -> None:
    """A request is answered by the application, which runs on a threadlets loop."""
    server = serve("service:app", "--port", "0")
    with _asked(server.port(), "/") as client:
        answer = _answer(client)
    assert answer.startswith("HTTP/1.1 200 OK")
    assert "server: threadlets" in answer
    assert answer.endswith("\r\n\r\nLoop")


def test_access_log_is_a_choice(serve: Serve) -> None:
    """Requests are logged unless --no-access-log is given."""
    for option, expected in (("--access-log", True), ("--no-access-log", False)):
        server = serve("service:app", "--port", "0", option)
        with _asked(server.port(), "/logged") as client:
            _answer(client)
        server.process.send_signal(signal.SIGTERM)
        assert 0 == server.end()
        assert expected == ("GET /logged" in server.output)


def test_sigterm_lets_a_request_in_flight_finish(serve: Serve) -> None:
    """A graceful stop answers open requests, closes the lifespan, and ends with status 0."""
    server = serve("service:app", "--port", "0")
    with _asked(server.port(), "/wait") as client:
        server.wait_for("request in flight")
        server.process.send_signal(signal.SIGTERM)
        answer = _answer(client)
    assert answer.startswith("HTTP/1.1 200 OK")
    assert 0 == server.end()
    assert "lifespan closed" in server.output
    assert "Traceback" not in server.output


def test_interrupt_is_a_graceful_stop(serve: Serve) -> None:
    """One Ctrl-C ends an idle server with status 0."""
    server = serve("service:app", "--port", "0")
    server.port()
    server.process.send_signal(signal.SIGINT)
    assert 0 == server.end()
    assert "lifespan closed" in server.output


def test_second_interrupt_drops_what_is_left(serve: Serve) -> None:
    """A second Ctrl-C does not wait for a request that never ends; the status is 130."""
    server = serve("service:app", "--port", "0", "--timeout-graceful-shutdown", "600")
    with _asked(server.port(), "/forever") as client:
        server.wait_for("request in flight")
        server.process.send_signal(signal.SIGINT)
        server.wait_for("Stopping on SIGINT")
        server.process.send_signal(signal.SIGINT)
        assert 130 == server.end()
        assert "" == _answer(client)


def test_grace_is_bounded(serve: Serve) -> None:
    """A request that outlasts the graceful timeout is cancelled, and the stop is still clean."""
    server = serve("service:app", "--port", "0", "--timeout-graceful-shutdown", "0")
    with _asked(server.port(), "/forever"):
        server.wait_for("request in flight")
        server.process.send_signal(signal.SIGTERM)
        assert 0 == server.end()


def test_stop_is_clean_while_the_main_thread_is_blocked(serve: Serve, tmp_path: Path) -> None:
    """The server restores its signals on another thread; the process ends once the call returns."""
    os.mkfifo(tmp_path / "gate")
    server = serve("service:app", "--port", "0", "--timeout-graceful-shutdown", "0")
    with _asked(server.port(), "/block"):
        server.wait_for("request in flight")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("Stopped")
        (tmp_path / "gate").write_bytes(b"")
        assert 0 == server.end()
    assert "signal only works in main thread" not in server.output


def test_unix_socket_is_served_and_removed(serve: Serve, tmp_path: Path) -> None:
    """--uds serves a path, replaces a stale socket there, and removes it at the end."""
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = serve("service:app", "--uds", str(path))
    server.wait_for("Serving service:app on unix:")
    assert stat.S_ISSOCK(path.stat().st_mode)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        assert _answer(client).endswith("Loop")
    server.process.send_signal(signal.SIGTERM)
    assert 0 == server.end()
    assert not path.exists()


def test_factory_makes_the_app(serve: Serve, tmp_path: Path) -> None:
    """--factory calls the function and serves what it returns."""
    (tmp_path / "made.py").write_text("from service import app\ndef create():\n    return app\n")
    server = serve("made:create", "--factory", "--port", "0")
    with _asked(server.port(), "/") as client:
        assert _answer(client).endswith("Loop")


def test_low_soft_limit_is_raised_and_said(serve: Serve, tmp_path: Path) -> None:
    """A soft descriptor limit that is too low is raised to the hard one, and the log says so."""
    server = serve("service:app", "--port", "0", descriptor_limit=(300, 4000))
    server.port()
    assert "Raised the descriptor limit from 300 to 4000" in server.output
    assert "ulimit -n 8192" in server.output


def test_listeners_say_that_they_are_tcp() -> None:
    """Without the protocol's number a loop leaves Nagle on, and answers can take 40 ms longer."""
    for listener in bind_tcp("127.0.0.1", 0):
        with listener:
            assert socket.IPPROTO_TCP == listener.proto
