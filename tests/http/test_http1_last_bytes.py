"""The end of a response: slow clients get all of it, whatever of their request is not read, or not sent."""

from __future__ import annotations

from pathlib import Path

import pytest
import servers
from http2_client import POST, Fields, Http2, headers
from messages import Connection
from servers import StartServer
from slow_reader import SlowReader

pytestmark = pytest.mark.skipif(
    servers.chosen_kind() != servers.OURS, reason="the applications are for our server"
)

# More than the kernel takes of a client that does not read.
N_BYTES = 8_000_000

APPS = {
    "ASGI": ("echo_app:app", ()),
    "WSGI": ("echo_app:wsgi_app", ("--interface", "wsgi")),
}
REQUESTS = {
    "a body that is not read": b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n%s\r\nhello",
    "chunks that are not read": b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n%s\r\n5\r\nhello",
    "a body that waits": b"POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n%s\r\n",
    "no body": b"GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n",
}


@pytest.fixture(params=["plain", "TLS"])
def tls_or_not(request: pytest.FixtureRequest, tls_folder: Path) -> Path | None:
    """Return the folder of the certificate, or None for connections without TLS."""
    return tls_folder if request.param == "TLS" else None


@pytest.mark.parametrize("closes", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
@pytest.mark.parametrize("what", REQUESTS)
@pytest.mark.parametrize("app", APPS)
def test_a_slow_reader_gets_a_whole_response(
    shared_server: StartServer, tls_or_not: Path | None, app: str, what: str, closes: bytes
) -> None:
    """Nothing of it is lost when the connection has to be closed behind it, and the close is an orderly one."""
    name, arguments = APPS[app]
    server = shared_server(*arguments, app=name, tls=tls_or_not)
    with SlowReader(server) as client:
        client.send(REQUESTS[what] % (b"/whole?bytes=%d" % N_BYTES, closes))
        assert N_BYTES == len(client.read_response().body)
        if closes or what != "no body":
            assert b"" == client.read_to_end()


@pytest.mark.parametrize("app", APPS)
def test_a_slow_reader_that_has_ended_its_half_gets_a_whole_response(
    shared_server: StartServer, app: str
) -> None:
    """RFC 9112, 9.6: a client may end its half behind its last request."""
    name, arguments = APPS[app]
    server = shared_server(*arguments, app=name)
    with SlowReader(server) as client:
        client.send(b"GET /whole?bytes=%d HTTP/1.1\r\nHost: a\r\n\r\n" % N_BYTES)
        client.half_close()
        assert N_BYTES == len(client.read_response().body)
        assert b"" == client.read_to_end()


def test_a_body_that_is_sent_behind_its_response_is_no_request(shared_server: StartServer) -> None:
    """It is not read, so that the connection is closed behind the response."""
    server = shared_server()
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    with Connection(server.address) as client:
        client.send(
            b"POST /whole?bytes=5 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
        )
        assert b"xxxxx" == client.read_response().body
        client.send_if_open(smuggled)
        assert b"" == client.read_to_end()


def test_a_slow_reader_of_http2_gets_a_whole_response(shared_server: StartServer) -> None:
    """The request's body is not read, and not even complete."""
    server = shared_server()
    fields: Fields = [POST[0], POST[1], (":path", f"/whole?bytes={N_BYTES}"), POST[3]]
    with Http2.connect(server.address) as client:
        client.send(headers(1, fields, 0x4))
        client.read_until(1)
        assert N_BYTES == len(client.stream(1).body)
