"""A server that stops: idle connections are closed at once, and requests in flight end in peace."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from http2_client import GET, Http2
from messages import Connection, Response
from servers import Server

pytestmark = pytest.mark.skipif(
    servers.chosen_kind() != servers.OURS, reason="what another server does is its own affair"
)

SECURE = ["plain", "TLS"]
# Less than any time for which an idle connection was ever kept while the server drains.
AT_ONCE_S = 0.7
SLOW = b"GET /slow?seconds=1.5 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(params=SECURE)
def server(request: pytest.FixtureRequest, tls_folder: Path) -> Iterator[Server]:
    """Return a server of the test's own that keeps idle connections for long."""
    tls = tls_folder if request.param == "TLS" else None
    started = servers.start(servers.OURS, "--timeout-keep-alive", "60", tls=tls)
    yield started
    started.stop()


def _asks(client: Connection, request: bytes) -> Response:
    client.send(request)
    return client.read_response()


def test_idle_connections_are_closed_at_once(server: Server) -> None:
    """A request that is in flight meanwhile is answered, and says that it is the last."""
    tls = server.client_context()
    process = server.process
    assert process is not None
    idle = [Connection(server.address, tls=tls) for _ in range(10)]
    with Connection(server.address, tls=tls) as busy:
        for client in idle:
            assert 200 == _asks(client, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").status
        busy.send(SLOW)
        # It is in the application.
        while idle[0].socket.fileno() >= 0:
            counts = _asks(idle[0], b"GET /counts HTTP/1.1\r\nHost: a\r\n\r\n").body
            if counts.split()[0] == b"1":
                break
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        for client in idle:
            assert b"" == client.read_to_end()
            client.socket.close()
        assert time.monotonic() - began_s < AT_ONCE_S
        last = busy.read_response()
        assert (200, b"slow", b"close") == (last.status, last.body, last.header(b"connection"))
        assert b"" == busy.read_to_end()
    assert 0 == process.wait(20)


def test_idle_connections_of_http2_are_told_at_once(server: Server) -> None:
    """By GOAWAY; they end when the client has answered to it."""
    process = server.process
    assert process is not None
    with Http2.connect(server.address, tls=server.tls) as client:
        client.answer(GET)
        began_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        while client.read_frame() is not None:
            pass
        assert 0 == client.goaway
        assert time.monotonic() - began_s < AT_ONCE_S
    assert 0 == process.wait(20)


def test_a_request_that_came_before_the_end_is_answered(server: Server) -> None:
    """Also if it came on a connection that was idle, at the moment of the signal."""
    tls = server.client_context()
    process = server.process
    assert process is not None
    with Connection(server.address, tls=tls) as client:
        assert 200 == _asks(client, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").status
        # While it is stopped, request and signal come together.
        process.send_signal(signal.SIGSTOP)
        client.send(SLOW)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert b"slow" == client.read_response().body
        assert b"" == client.read_to_end()
    assert 0 == process.wait(20)
