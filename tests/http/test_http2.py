"""HTTP/2: how our server keeps its connections, ends them, and carries many requests; clients that others wrote."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("hyperframe", reason="needs the package h2")

import servers
from http2_client import (
    END_HEADERS,
    GET,
    HEADERS,
    POST,
    PREFACE,
    RST_STREAM,
    Fields,
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

if servers.chosen_kind() != servers.OURS:
    pytest.skip("these are claims about our server", allow_module_level=True)

SECURE = ("clear text", "TLS")
StartOwn = Callable[..., Server]


@pytest.fixture
def start(tls_folder: Path) -> Iterator[StartOwn]:
    """Start servers that a test has for itself."""
    started = []

    def start(*arguments: str, secure: str = SECURE[0], app: str = "echo_app:app") -> Server:
        tls = tls_folder if secure == "TLS" else None
        started.append(servers.start(servers.OURS, *arguments, app=app, tls=tls))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(params=SECURE)
def server(request: pytest.FixtureRequest, shared_server: StartServer, tls_folder: Path) -> Server:
    """Return our server, with TLS or without."""
    return shared_server(tls=tls_folder) if request.param == "TLS" else shared_server()


def to(path: str, method: str = "GET") -> Fields:
    """Return the head of a request."""
    return [(":method", method), GET[1], (":path", path), GET[3]]


# -- the beginning -------------------------------------------------------------------------------------


def test_a_preface_may_come_in_pieces(shared_server: StartServer) -> None:
    server = shared_server()
    with socket.create_connection(server.address) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before = server.answers
        for at in range(len(PREFACE)):
            plain.sendall(PREFACE[at : at + 1])
            assert at % 8 or before()
        plain.sendall(settings())
        # A SETTINGS frame is the first that a server sends.
        assert 4 == plain.recv(9)[3]


@pytest.mark.parametrize("first", [b"P", b"PR", b"PRI * HTTP/2.0\r\n\r\nSM"])
def test_what_only_begins_as_the_preface_is_http1(shared_server: StartServer, first: bytes) -> None:
    with Connection(shared_server().address) as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.send(first)
        time.sleep(0.05)  # Not to wait for something: for the server to read the first bytes alone.
        rest = b"OST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
        connection.send(rest if first == b"P" else b"?\r\n\r\n")
        assert (200 if first == b"P" else 400) == connection.read_response().status


def test_a_connection_of_http1_stays_one(shared_server: StartServer) -> None:
    with Connection(shared_server().address) as connection:
        connection.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert 200 == connection.read_response().status
        connection.send(PREFACE + settings())
        assert b"" == connection.read_to_end()


# -- fields --------------------------------------------------------------------------------------------


def test_the_authority_is_the_host_and_comes_first(server: Server) -> None:
    with Http2.connect(server.address, tls=server.tls) as client:
        end = client.answer([*to("/headers"), ("x-a", "b"), ("host", "a")])
        assert [b"host: a", b"x-a: b"] == end.body.splitlines()
        end = client.answer([*to("/headers"), ("host", "other")], number=3)
        assert 400 == end.status
        end = client.answer([*to("/headers")[:3], ("host", "b")], number=5)
        assert b"host: b\n" == end.body


def test_fields_of_a_connection_are_not_sent(server: Server) -> None:
    with Http2.connect(server.address, tls=server.tls) as client:
        end = client.answer([*to("/x")[:3]])
        assert 400 == end.status
        assert not {b"connection", b"transfer-encoding"} & {name for name, _ in end.fields}


def test_a_scope_says_http2_and_its_scheme(shared_server: StartServer, tls_folder: Path) -> None:
    for tls, scheme in ((None, b'"scheme": "http"'), (tls_folder, b'"scheme": "https"')):
        server = shared_server(app="scope_app:app", tls=tls)
        with Http2.connect(server.address, tls=tls) as client:
            body = client.answer(GET).body
        assert b'"http_version": "2"' in body
        assert scheme in body


# -- many and large ------------------------------------------------------------------------------------


def test_a_thousand_requests_on_one_connection(server: Server) -> None:
    with Http2.connect(server.address, tls=server.tls) as client:
        for number in range(1, 2001, 2):
            assert b"GET /%d 0\n" % number == client.answer(to(f"/{number}"), number=number).body


def test_large_bodies_both_ways_on_many_streams(server: Server) -> None:
    body = os.urandom(1 << 20)
    numbers = range(1, 17, 2)
    with Http2.connect(server.address, tls=server.tls) as client:
        client.send(settings((4, 1 << 24)) + window_update(0, 1 << 26))
        for number in numbers:
            client.send(headers(number, to(f"/{number}", "POST"), END_HEADERS))
        window = dict.fromkeys((0, *numbers), 0)

        def room(number: int) -> int:
            return min(window[0], window[number])

        # Send as the server gives room, and read what comes meanwhile.
        client.read_frame()
        window = {number: client.server_settings.get(4, 65535) for number in window}
        window[0] = 65535
        at = dict.fromkeys(numbers, 0)
        while any(at[number] < len(body) for number in numbers):
            for number in numbers:
                n_bytes = min(room(number), 16384, len(body) - at[number])
                if n_bytes <= 0:
                    continue
                is_last = at[number] + n_bytes == len(body)
                client.send(data(number, body[at[number] : at[number] + n_bytes], int(is_last)))
                at[number] += n_bytes
                window[0] -= n_bytes
                window[number] -= n_bytes
            if all(room(number) <= 0 or at[number] == len(body) for number in numbers) and any(
                at[number] < len(body) for number in numbers
            ):
                frame = client.read_frame()
                assert frame is not None
                window[frame.stream_id] += getattr(frame, "window_increment", 0)
        client.read_until(*numbers)
        for number in numbers:
            line, _, echoed = client.stream(number).body.partition(b"\n")
            assert b"POST /%d %d" % (number, len(body)) == line
            assert body == echoed


def test_a_stream_whose_client_takes_nothing_does_not_hold_up_others(server: Server) -> None:
    opening = PREFACE + settings((4, 0)) + window_update(0, 1 << 24)
    with Http2.connect(server.address, tls=server.tls, opening=opening) as client:
        client.send(headers(1, to("/large?bytes=10000000")))
        for number in range(3, 41, 2):
            client.send(headers(number, to("/x")) + window_update(number, 1000))
            client.read_until(number)
            assert b"GET /x 0\n" == client.stream(number).body
        assert b"" == client.stream(1).body
        client.send(window_update(1, 1 << 24))
        client.read_until(1)
        assert 10_000_000 == len(client.stream(1).body)


# -- ends ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", SECURE)
def test_an_idle_connection_is_told_to_go_away(start: StartOwn, secure: str) -> None:
    server = start("--timeout-keep-alive", "0.5", secure=secure)
    with Http2.connect(server.address, tls=server.tls) as client:
        assert 200 == client.answer(GET).status
        # Pings do not keep it.
        stop = threading.Event()

        def ping() -> None:
            while not stop.wait(0.1) and client.send(raw_frame(6, 0, 0, bytes(8))):
                pass

        pinging = threading.Thread(target=ping)
        pinging.start()
        began_s = time.monotonic()
        while client.goaway is None and client.read_frame() is not None:
            pass
        assert 0 == client.goaway
        while client.read_frame() is not None:
            pass
        stop.set()
        pinging.join()
        assert time.monotonic() - began_s < 10


def test_a_slow_response_is_not_idle(start: StartOwn) -> None:
    server = start("--timeout-keep-alive", "0.2")
    with Http2.connect(server.address) as client:
        end = client.answer(to("/slow?seconds=1.5"))
        assert b"slow" == end.body
        assert client.goaway is None


@pytest.mark.parametrize("secure", SECURE)
def test_a_server_that_stops_finishes_what_has_begun(start: StartOwn, secure: str) -> None:
    server = start(secure=secure)
    with Http2.connect(server.address, tls=server.tls) as client:
        client.send(headers(1, to("/slow?seconds=1.5")) + headers(3, to("/x")))
        client.read_until(3)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        client.read_until(1)
        assert b"slow" == client.stream(1).body
        while client.read_frame() is not None:
            pass
        assert 0 == client.goaway
    assert 0 == server.process.wait(20)


def test_a_client_that_takes_nothing_of_a_response_is_left(start: StartOwn) -> None:
    server = start("--timeout-response", "0.5")
    opening = PREFACE + settings((4, 10))
    with Http2.connect(server.address) as client:
        client.answer(GET)
        n_before = server.n_sockets() - 1
    for path in ("/large?bytes=1000000", "/large?bytes=100"):
        with Http2.connect(server.address, opening=opening) as client:
            client.refills = False
            client.send(headers(1, to(path)))
            while (frame := client.read_frame()) is not None:
                if frame.type == 0:
                    # Pings are no progress.
                    client.send(raw_frame(6, 0, 0, bytes(8)))
            assert 10 == len(client.stream(1).body)
    wait_until(lambda: server.n_sockets() <= n_before)


def test_half_a_head_is_no_request_and_does_not_stay(start: StartOwn) -> None:
    server = start("--timeout-request-head", "0.5", "--timeout-keep-alive", "0.5")
    with Http2.connect(server.address) as client:
        client.send(raw_frame(HEADERS, 0, 1, block(GET)))
        while client.read_frame() is not None:
            pass
        assert client.stream(1).status is None


def test_streams_that_are_reset_after_they_began_end_the_connection(server: Server) -> None:
    """A rapid reset that is slow enough for each application to begin."""
    code = struct.pack("!I", 8)
    with Http2.connect(server.address, tls=server.tls) as client:
        number = 1
        while number < 5000 and not client.is_closed:
            client.send(headers(number, to("/until-left")) + raw_frame(6, 0, 0, bytes(8)))
            n_pongs = client.n_pongs
            while client.n_pongs == n_pongs and client.read_frame() is not None:
                pass
            if not client.is_closed:
                client.send(raw_frame(RST_STREAM, 0, number, code))
            number += 2
        assert 200 <= number / 2 < 2000
    with Http2.connect(server.address, tls=server.tls) as client:
        numbers = iter(range(1, 100_001, 2))
        counts = to("/counts")
        wait_until(lambda: client.answer(counts, number=next(numbers)).body.startswith(b"0 "))


def test_a_body_that_is_too_slow_is_refused(start: StartOwn) -> None:
    server = start("--timeout-request-body", "0.5")
    with Http2.connect(server.address) as client:
        client.send(headers(1, POST, END_HEADERS) + data(1, b"half", 0))
        client.read_until(1)
        assert 408 == client.stream(1).status
        assert 200 == client.answer(GET, number=3).status


def test_a_body_that_is_too_large_is_refused(start: StartOwn) -> None:
    server = start("--limit-request-body", "1000")
    with Http2.connect(server.address) as client:
        end = client.answer([*POST, ("content-length", "1001")], body=b"x" * 1001)
        assert 413 == end.status
        assert 413 == client.answer(POST, number=3, body=b"x" * 1001).status
        assert 200 == client.answer(POST, number=5, body=b"x" * 1000).status


def test_requests_beyond_the_limit_are_told_so(start: StartOwn) -> None:
    server = start("--limit-concurrency", "2")
    with Http2.connect(server.address) as client:
        client.send(headers(1, to("/slow?seconds=1")) + headers(3, to("/slow?seconds=1")))
        assert 503 == client.answer(GET, number=5).status
        client.read_until(1, 3)
        assert 200 == client.answer(GET, number=7).status


def test_the_log_names_the_version(tls_folder: Path) -> None:
    server = servers.start(servers.OURS, "--access-log", tls=tls_folder)
    try:
        with Http2.connect(server.address, tls=tls_folder) as client:
            client.answer(to("/logged"))
        wait_until(lambda: re.search(r'"GET /logged HTTP/2" 200', server.log_text()))
    finally:
        server.stop()


# -- clients that others wrote -------------------------------------------------------------------------


@pytest.mark.parametrize("secure", SECURE)
def test_h2load(secure: str, shared_server: StartServer, tls_folder: Path) -> None:
    if shutil.which("h2load") is None:
        pytest.skip("h2load is not installed (Debian: nghttp2-client)")
    tls = tls_folder if secure == "TLS" else None
    server = shared_server(tls=tls)
    url = f"http{'s' if tls else ''}://127.0.0.1:{server.address[1]}"
    for path, n_requests in (("/x", 5000), ("/large?bytes=300000", 200)):
        done = subprocess.run(
            ["h2load", "-n", str(n_requests), "-c", "10", "-m", "50", url + path],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert f"{n_requests} succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout


def test_httpx(shared_server: StartServer, tls_folder: Path) -> None:
    httpx = pytest.importorskip("httpx")
    server = shared_server(tls=tls_folder)
    verify = ssl.create_default_context(cafile=str(tls_folder / "cert.pem"))
    url = f"https://localhost:{server.address[1]}"
    with httpx.Client(http2=True, verify=verify, trust_env=False) as client:
        for _ in range(20):
            response = client.post(url + "/x", content=b"y" * 500_000)
            assert "HTTP/2" == response.http_version
            assert b"y" * 500_000 == response.content.partition(b"\n")[2]
