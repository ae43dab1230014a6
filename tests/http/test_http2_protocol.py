"""HTTP/2 as a table, its limits, and floods that other servers have suffered from (RFC 9113)."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("hyperframe", reason="needs the package h2")

import cases_http2
import servers
from cases_http2 import Http2Case
from http2_client import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    PING,
    POST,
    PREFACE,
    PROBE,
    PROBE_STREAM,
    RST_STREAM,
    SETTINGS,
    Http2,
    block,
    data,
    headers,
    raw_frame,
    settings,
    window_update,
)
from messages import Connection
from servers import Server, StartServer
from waiting import wait_until

KIND = servers.chosen_kind()
NEEDS_APP = pytest.mark.skipif(KIND == "nginx", reason="nginx has no application behind it here")

if not servers.speaks("HTTP/2"):
    pytest.skip(f"{KIND} does not speak HTTP/2", allow_module_level=True)

Connect = Callable[..., Http2]


@pytest.fixture
def server(shared_server: StartServer, tls_folder: Path) -> Server:
    """Return a server that speaks HTTP/2 in clear text, or over TLS if it does not otherwise."""
    return shared_server(tls=tls_folder) if KIND == "nginx" else shared_server()


@pytest.fixture
def connect(server: Server) -> Iterator[Connect]:
    """Connect to the server; all connections are closed in the end."""
    opened = []

    def connect(**options: object) -> Http2:
        opened.append(Http2.connect(server.address, tls=server.tls, **options))
        return opened[-1]

    yield connect
    for client in opened:
        client.connection.socket.close()


def _parameters() -> list[object]:
    tables = {"frame": cases_http2.FRAMES, "request": cases_http2.REQUESTS}
    return [
        pytest.param(case, id=f"{table}: {case.name}")
        for table, cases in tables.items()
        for case in cases
    ]


@pytest.mark.parametrize("case", _parameters())
def test_frames_are_answered_as_the_rfc_says(connect: Connect, case: Http2Case) -> None:
    """An error of a stream leaves the others alone, and one of the connection ends it."""
    client = connect()
    client.send(case.sent + headers(PROBE_STREAM, PROBE))
    client.read_until(PROBE_STREAM)
    if case.permitted != cases_http2.GOES_ON:
        client.read_until(1)
    assert _what_followed(client) in case.permitted, f"RFC {case.section}; {client}"


def _what_followed(client: Http2) -> str:
    first = client.streams.get(1)
    if client.goaway or client.is_closed:
        return "connection error"
    if not client.stream(PROBE_STREAM).is_whole:
        return "nothing"
    if first is not None and first.status is not None:
        return str(first.status)
    if first is not None and first.reset is not None:
        return "stream error"
    return "goes on"


@pytest.mark.parametrize("name", cases_http2.OPENINGS)
def test_openings_that_are_none_end_the_connection(connect: Connect, name: str) -> None:
    """RFC 9113, 3.4: a connection error, or just the end."""
    client = connect(opening=cases_http2.OPENINGS[name])
    # What comes may be an answer in HTTP/1.1, which is no frame.
    assert client.connection.read_to_end() is not None


# --- What works ---


def test_alpn_chooses_http2_or_1_1(shared_server: StartServer, tls_folder: Path) -> None:
    """RFC 7301: what the client offers, in the server's order."""
    server = shared_server(tls=tls_folder)
    context = ssl.create_default_context(cafile=str(tls_folder / "cert.pem"))
    for offered, expected in (
        (["h2", "http/1.1"], "h2"),
        (["http/1.1"], "http/1.1"),
        (["h2"], "h2"),
    ):
        context.set_alpn_protocols(offered)
        with Connection(server.address, tls=context) as connection:
            assert isinstance(connection.socket, ssl.SSLSocket)
            assert expected == connection.socket.selected_alpn_protocol()
    with Http2.connect(server.address, tls=tls_folder) as client:
        scheme = [(key, "https" if key == ":scheme" else value) for key, value in GET]
        assert 200 == client.answer(scheme).status


def test_a_client_without_alpn_is_spoken_to_in_1_1(
    shared_server: StartServer, tls_folder: Path
) -> None:
    """HTTP/1.1 over TLS."""
    server = shared_server(tls=tls_folder)
    context = ssl.create_default_context(cafile=str(tls_folder / "cert.pem"))
    with Connection(server.address, tls=context) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert 200 == connection.read_response().status


@NEEDS_APP
def test_a_hundred_streams_at_once(connect: Connect) -> None:
    """Each gets its own answer; slow ones do not hold up others."""
    client = connect()
    client.read_frame()
    numbers = range(1, 1 + 2 * min(100, client.server_settings.get(3, 100)), 2)
    for number in numbers:
        fields = [*POST[:2], (":path", f"/{number}"), POST[3]]
        client.send(headers(number, fields, END_HEADERS) + data(number, b"%d" % number))
    client.read_until(*numbers)
    for number in numbers:
        line, _, body = client.stream(number).body.partition(b"\n")
        assert (b"POST /%d %d" % (number, len(str(number))), b"%d" % number) == (line, body)


@NEEDS_APP
def test_a_slow_stream_does_not_hold_up_others(connect: Connect) -> None:
    """The answers come in the order in which they are ready."""
    client = connect()
    client.send(headers(1, [*GET[:2], (":path", "/slow?seconds=0.5"), GET[3]]) + headers(3, GET))
    client.read_until(3)
    assert not client.stream(1).is_whole
    client.read_until(1)
    assert b"slow" == client.stream(1).body


@NEEDS_APP
def test_head_and_204_end_with_their_headers(connect: Connect) -> None:
    """No data follows."""
    client = connect()
    end = client.answer([(":method", "HEAD"), *GET[1:]])
    assert (200, b"") == (end.status, end.body)
    end = client.answer([*GET[:2], (":path", "/without-content"), GET[3]], number=3)
    assert b"" == end.body
    assert end.status in (204, 500) or end.reset is not None


@NEEDS_APP
def test_a_response_waits_for_the_window(connect: Connect) -> None:
    """Not a byte beyond what the client has allowed, and all of it in the end."""
    client = connect(opening=PREFACE + settings((4, 10)))
    client.refills = False
    client.send(headers(1, [*GET[:2], (":path", "/large?bytes=100"), GET[3]]))
    client.send(raw_frame(PING, 0, 0, bytes(8)))
    while len(client.stream(1).body) < 10:
        client.read_frame()
    for n_bytes in (20, 30, 40):
        client.send(window_update(1, 10) + raw_frame(PING, 0, 0, bytes(8)))
        while len(client.stream(1).body) < n_bytes:
            client.read_frame()
        assert n_bytes == len(client.stream(1).body)
    client.send(window_update(1, 1000))
    client.read_until(1)
    assert 100 == len(client.stream(1).body)


@NEEDS_APP
def test_an_application_that_raises_within_a_response_resets_the_stream(connect: Connect) -> None:
    """The connection goes on."""
    client = connect()
    end = client.answer([*GET[:2], (":path", "/raises-within"), GET[3]])
    assert end.reset is not None
    assert not end.is_whole
    assert 200 == client.answer(GET, number=3).status


@NEEDS_APP
def test_cookies_are_joined_for_the_application(connect: Connect) -> None:
    """RFC 9113, 8.2.3: they may come in pieces."""
    cookies = [("cookie", "a=b"), ("cookie", "c=d")]
    end = connect().answer([*GET[:2], (":path", "/headers"), GET[3], *cookies])
    lines = [it for it in end.body.splitlines() if it.startswith(b"cookie")]
    if KIND == servers.OURS:
        assert [b"cookie: a=b; c=d"] == lines


@NEEDS_APP
def test_a_stream_that_is_reset_leaves_the_application(connect: Connect) -> None:
    """`http.disconnect`, while the connection goes on."""
    client = connect()
    counts = [*GET[:2], (":path", "/counts"), GET[3]]
    number = iter(range(3, 100_001, 2))
    before = int(client.answer(counts, number=next(number)).body.split()[1])
    client.send(headers(1001, [*GET[:2], (":path", "/until-left"), GET[3]]))
    number = iter(range(1003, 100_001, 2))
    wait_until(lambda: client.answer(counts, number=next(number)).body.startswith(b"1 "))
    client.send(raw_frame(RST_STREAM, 0, 1001, struct.pack("!I", 8)))
    expected = b"0 %d" % (before + 1)
    wait_until(lambda: client.answer(counts, number=next(number)).body == expected)


# --- Limits ---


def test_more_streams_than_allowed_are_refused(connect: Connect) -> None:
    """RFC 9113, 5.1.2: an error of the stream, or of the connection; the others are not lost."""
    client = connect()
    client.read_frame()
    allowed = client.server_settings.get(3)
    assert allowed is not None, "the server must bound its streams"
    assert allowed <= 1000
    for number in range(1, 2 * allowed + 2, 2):
        client.send(headers(number, POST, END_HEADERS))
    last = 2 * allowed + 1
    client.read_until(last)
    assert client.goaway or client.is_closed or client.stream(last).reset in (1, 7)


def test_headers_beyond_the_limit_are_refused(connect: Connect) -> None:
    """RFC 9113, 10.5.1: 431, or an error. A limit of the list is announced, or small."""
    client = connect()
    many = block(GET) + block([("x-name", "y" * 1000)]) * 200
    parts = [many[i : i + 16_000] for i in range(0, len(many), 16_000)]
    sent = raw_frame(HEADERS, END_STREAM, 1, parts[0])
    for i, part in enumerate(parts[1:], 1):
        sent += raw_frame(CONTINUATION, END_HEADERS if i == len(parts) - 1 else 0, 1, part)
    client.send(sent)
    client.read_until(1)
    end = client.stream(1)
    assert end.status in (400, 431) or end.reset is not None or client.goaway or client.is_closed


def test_headers_that_grow_by_the_table_are_refused(connect: Connect) -> None:
    """One long header, named by its index ten thousand times, is thirty megabytes."""
    client = connect()
    long = b"\x40\x06x-name\x7f\xa1\x17" + b"y" * 3104
    client.send(raw_frame(HEADERS, END_STREAM, 1, block(GET) + long))
    client.send(raw_frame(CONTINUATION, END_HEADERS, 1, b"\xbe" * 10_000))
    client.read_until(1)
    end = client.stream(1)
    assert end.status in (400, 431) or end.reset is not None or client.goaway or client.is_closed


def test_data_beyond_the_window_is_an_error(connect: Connect) -> None:
    """RFC 9113, 6.9.1: of the stream or of the connection; the application does not read."""
    client = connect()
    client.refills = False
    client.send(
        headers(1, [(":method", "POST"), *GET[1:2], (":path", "/deaf"), GET[3]], END_HEADERS)
    )
    for _ in range(20_000):
        if not client.send(data(1, bytes(16_384), 0)):
            break
        client.connection.socket.settimeout(0.0005)
        try:
            client.read_frame()
        except TimeoutError:
            pass
        client.connection.socket.settimeout(10)
        if client.goaway or client.is_closed or client.stream(1).reset is not None:
            break
    else:
        raise AssertionError("the server has taken 300 MB")


# --- Floods ---


def _flood(
    server: Server,
    connect: Connect,
    frames: Callable[[int], bytes],
    n_frames: int,
    *,
    mib: int = 24,
) -> Http2:
    """Send frames until the server ends the connection or has taken all: it answers others, and keeps little."""
    assert _answers(connect)
    before = server.rss_bytes()
    client = connect(deadline_s=1.0)
    client.refills = False
    try:
        for first in range(0, n_frames, 100):
            if not client.send(b"".join(frames(i) for i in range(first, first + 100))):
                break
    except TimeoutError:
        # It does not read any more, because we do not.
        pass
    assert server.rss_bytes() - before < mib << 20
    assert _answers(connect)
    return client


def _answers(connect: Connect) -> bool:
    client = connect()
    is_answered = client.answer(GET).status == 200
    client.connection.socket.close()
    return is_answered


def test_streams_that_are_reset_at_once_do_not_pile_up(server: Server, connect: Connect) -> None:
    """CVE-2023-44487: no more requests are under way than streams are allowed, or the connection is ended."""

    def frames(i: int) -> bytes:
        number = 2 * i + 1
        path = [*GET[:2], (":path", "/until-left"), GET[3]]
        return headers(number, path) + raw_frame(RST_STREAM, 0, number, struct.pack("!I", 8))

    _flood(server, connect, frames, 20_000)
    if KIND != "nginx":
        counts = [*GET[:2], (":path", "/counts"), GET[3]]
        wait_until(lambda: connect().answer(counts).body.startswith(b"0 "))


def test_streams_that_the_server_resets_do_not_pile_up(server: Server, connect: Connect) -> None:
    """CVE-2025-8671: the client makes the server reset streams whose requests go on."""

    def frames(i: int) -> bytes:
        number = 2 * i + 1
        path = [*GET[:2], (":path", "/until-left"), GET[3]]
        return headers(number, path, END_HEADERS) + window_update(number, 0)

    _flood(server, connect, frames, 20_000)
    if KIND != "nginx":
        counts = [*GET[:2], (":path", "/counts"), GET[3]]
        wait_until(lambda: connect().answer(counts).body.startswith(b"0 "))


def test_a_header_that_goes_on_for_ever_ends_the_connection(
    server: Server, connect: Connect
) -> None:
    """CVE-2024-27316 and others: the parts of headers are bounded."""

    def frames(i: int) -> bytes:
        if i == 0:
            return raw_frame(HEADERS, END_STREAM, 1, block(GET))
        return raw_frame(CONTINUATION, 0, 1, block([("x-name", "y" * 100)]))

    client = _flood(server, connect, frames, 200_000)
    _expect_end(client)


def test_empty_parts_of_headers_end_the_connection(server: Server, connect: Connect) -> None:
    """They cost the client nothing."""

    def frames(i: int) -> bytes:
        if i == 0:
            return raw_frame(HEADERS, END_STREAM, 1, block(GET))
        return raw_frame(CONTINUATION, 0, 1)

    client = _flood(server, connect, frames, 200_000)
    _expect_end(client)


def _expect_end(client: Http2) -> None:
    client.connection.socket.settimeout(10)
    while client.read_frame() is not None:
        pass


def test_pings_that_nobody_reads_the_answers_of(server: Server, connect: Connect) -> None:
    """CVE-2019-9512: the answers do not pile up."""
    _flood(server, connect, lambda _: raw_frame(PING, 0, 0, bytes(8)), 500_000)


def test_settings_that_nobody_reads_the_answers_of(server: Server, connect: Connect) -> None:
    """CVE-2019-9515."""
    _flood(server, connect, lambda _: settings((4, 65_535)), 500_000)


def test_resets_that_nobody_reads(server: Server, connect: Connect) -> None:
    """CVE-2019-9514: each malformed request makes the server send a reset."""

    def frames(i: int) -> bytes:
        return headers(2 * i + 1, [*GET, ("connection", "close")])

    _flood(server, connect, frames, 50_000)


def test_empty_frames(server: Server, connect: Connect) -> None:
    """CVE-2019-9518: data and headers without a byte."""

    def frames(i: int) -> bytes:
        return headers(1, POST, END_HEADERS) if i == 0 else data(1, b"", 0)

    _flood(server, connect, frames, 200_000)


def test_windows_one_byte_at_a_time(server: Server, connect: Connect) -> None:
    """CVE-2019-9511: a large response to a client with a window of one byte, opened again and again."""

    def frames(i: int) -> bytes:
        if i == 0:
            path = [*GET[:2], (":path", "/large?bytes=10000000"), GET[3]]
            return settings((4, 1)) + headers(1, path)
        return window_update(1, 1)

    _flood(server, connect, frames, 20_000)


def test_responses_that_nobody_takes(server: Server, connect: Connect) -> None:
    """CVE-2019-9517: the window is open, and the client does not read."""

    def frames(i: int) -> bytes:
        path = [*GET[:2], (":path", "/large?bytes=10000000"), GET[3]]
        if i == 0:
            return settings((4, (1 << 31) - 1)) + window_update(0, (1 << 31) - 1 - 65_535)
        return headers(2 * i + 1, path)

    _flood(server, connect, frames, 100, mib=64)


def test_a_window_of_nothing_costs_little_memory(server: Server, connect: Connect) -> None:
    """The application waits in `send`."""
    before = server.rss_bytes()
    client = connect(opening=PREFACE + settings((4, 0)))
    for number in range(1, 101, 2):
        client.send(headers(number, [*GET[:2], (":path", "/large?bytes=50000000"), GET[3]]))
    assert _answers(connect)
    assert server.rss_bytes() - before < 32 << 20


def test_clients_that_leave_at_each_byte_leave_nothing(server: Server, connect: Connect) -> None:
    """Reset and closed."""
    if server.tls is not None:
        pytest.skip("bytes of TLS are not those of HTTP/2")
    sent = (
        PREFACE + settings() + headers(1, POST, END_HEADERS) + data(1, b"hello") + headers(3, GET)
    )
    assert _answers(connect)
    wait_until(_is_settled(server))
    before = server.n_descriptors()
    for n_bytes in range(len(sent) + 1):
        connection = Connection(server.address)
        connection.send(sent[:n_bytes])
        if n_bytes % 2:
            connection.reset()
        else:
            connection.socket.close()
    wait_until(lambda: server.n_descriptors() <= before)
    assert _answers(connect)


def _is_settled(server: Server) -> Callable[[], bool]:
    seen: list[int] = []

    def is_settled() -> bool:
        seen.append(server.n_sockets())
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    return is_settled


def test_acknowledged_settings_and_pings(connect: Connect) -> None:
    """Both are answered, in order."""
    client = connect()
    client.send(
        settings((3, 100)) + raw_frame(PING, 0, 0, b"abcdefgh") + raw_frame(SETTINGS, ACK, 0)
    )
    while client.n_settings_acks < 2 or client.n_pongs < 1:
        assert client.read_frame() is not None
