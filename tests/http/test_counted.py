"""What a server counts of clients that mean harm or have gone, as its metrics show it."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from http2_client import (
    CONTINUATION,
    END_STREAM,
    GET,
    HEADERS,
    PING,
    RST_STREAM,
    Fields,
    Http2,
    block,
    headers,
    raw_frame,
)
from messages import Connection
from servers import Server, StartServer
from threadlets import _core
from threadlets.http._counted import families
from waiting import wait_until
from websocket_kit import on_a_loop

if servers.chosen_kind() != servers.OURS:
    pytest.skip("these are claims about our server", allow_module_level=True)

_UNTIL_LEFT: Fields = [*GET[:2], (":path", "/until-left"), GET[3]]


def _metrics(server: Server, tls: Path | None = None) -> dict[str, int]:
    context = None if tls is None else ssl.create_default_context(cafile=str(tls / "cert.pem"))
    with Connection(server.address, tls=context) as connection:
        connection.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        text = connection.read_response().body.decode()
    lines = [it for it in text.splitlines() if not it.startswith("#") and "_seconds" not in it]
    return {name: int(value) for name, value in (it.split(" ") for it in lines)}


def _refused(server: Server, reason: str) -> int:
    return _metrics(server)[f'threadlets_refusals_total{{reason="{reason}"}}']


class _Watched(dict[str, Any]):
    """Counts that know which of them were looked at."""

    def __init__(self, counts: dict[str, Any]) -> None:
        super().__init__(counts)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)


@on_a_loop
async def test_everything_that_is_counted_is_shown() -> None:
    """Each counter of a server has a metric."""
    native = _core.HttpServer(
        asyncio.get_running_loop(), None, None, limits={}, headers=[], logs=False, root_path="",
        scheme="http", state=None, extensions={},
    )  # fmt: skip
    counts = _Watched(native.metrics())
    families(counts)
    assert set(counts) == counts.seen
    assert set(counts) == set(_core.HttpCounts().total())


@pytest.fixture
def server(shared_server: StartServer) -> Server:
    """Return a server with metrics, whose websockets are pinged often."""
    pings = ("--ws-ping-interval", "0.1", "--ws-ping-timeout", "0.1")
    return shared_server("--metrics", "/metrics", *pings)


def test_handshakes_of_tls_are_counted(shared_server: StartServer, tls_folder: Path) -> None:
    """Those that were completed, and those that failed or were none."""
    server = shared_server("--metrics", "/metrics", tls=tls_folder)
    before = _metrics(server, tls_folder)
    with Connection(server.address) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert 400 == connection.read_response().status
    with Connection(server.address) as connection:
        connection.send(b"\x16\x03\x01\x00\x05nonsense")
        while connection.socket.recv(1000):
            pass
    after = _metrics(server, tls_folder)
    names = ("threadlets_tls_handshakes_total", "threadlets_tls_handshakes_failed_total")
    assert (1, 2) == tuple(after[name] - before[name] for name in names)


def _flood(server: Server) -> Iterator[bytes]:
    yield raw_frame(HEADERS, END_STREAM, 1, block(_UNTIL_LEFT))
    while True:
        yield raw_frame(CONTINUATION, 0, 1) * 100


def test_a_flood_of_frames_is_counted(server: Server) -> None:
    """Headers that go on without saying anything."""
    before = _refused(server, "floods")
    with Http2.connect(server.address) as client:
        for part in _flood(server):
            if not client.send(part):
                break
    wait_until(lambda: _refused(server, "floods") == before + 1)


def test_too_many_resets_are_counted(server: Server) -> None:
    """Of requests that have begun: those before that are a flood."""
    before = _refused(server, "resets")
    with Http2.connect(server.address) as client:
        for first in range(1, 1001, 100):
            numbers = range(first, first + 100, 2)
            client.send(b"".join(headers(it, _UNTIL_LEFT) for it in numbers))
            client.send(raw_frame(PING, 0, 0, struct.pack("!Q", first)))
            # Its answer says that the requests before it were read.
            n_pongs = client.n_pongs + 1
            while client.n_pongs < n_pongs and client.read_frame() is not None:
                pass
            code = struct.pack("!I", 8)
            if not client.send(b"".join(raw_frame(RST_STREAM, 0, it, code) for it in numbers)):
                break
    wait_until(lambda: _refused(server, "resets") == before + 1)


def test_websockets_that_do_not_answer_pings_are_counted(server: Server) -> None:
    """Their clients have gone."""
    name = 'threadlets_timeouts_total{what="ping"}'
    before = _metrics(server)[name]
    with Connection(server.address) as connection:
        connection.send(
            b"GET /websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b"HTTP/1.1 101" == connection.socket.recv(12)
        wait_until(lambda: _metrics(server)[name] == before + 1)
