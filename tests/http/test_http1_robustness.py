"""Clients that break off, dawdle or flood: afterwards the server answers, and nothing of them is left."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator

import pytest
import servers
from cases import PROBE
from messages import Closed, Connection, NotHttp, exchange
from servers import Server
from test_http1_messages import TABLES
from waiting import wait_until

HAS_APP = servers.chosen_kind() != "nginx"

REQUEST = (
    b"POST /x?y=z HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"
)
N_SLOW = 300


@pytest.fixture(autouse=True)
def nothing_is_left(server: Server) -> Iterator[None]:
    """Check that the server answers after each test, and that it has as many sockets as before."""
    if server.process is None:
        yield
        return
    assert server.answers()
    before = server.n_descriptors()
    yield
    assert server.answers()
    wait_until(lambda: server.n_descriptors() <= before)
    if HAS_APP:
        wait_until(lambda: _n_inside(server) == 0)


def _n_inside(server: Server) -> int:
    request = b"GET /counts HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    return int(exchange(server.address, request).responses[0].body.split()[0])


Leave = Callable[[Connection], None]

LEAVE: dict[str, Leave] = {
    "reset": Connection.reset,
    "close": lambda connection: connection.socket.close(),
}


@pytest.mark.parametrize("how", LEAVE)
def test_clients_that_leave_at_each_byte_of_a_request(server: Server, how: str) -> None:
    """From before the first to after the last."""
    for n_bytes in range(len(REQUEST) + 1):
        connection = Connection(server.address)
        connection.send(REQUEST[:n_bytes])
        LEAVE[how](connection)


def test_clients_that_leave_after_each_half_of_a_request(server: Server) -> None:
    """What was sent before is read by the server first: the reset comes when it waits for the rest."""
    for n_bytes in range(1, len(REQUEST)):
        connection = Connection(server.address)
        connection.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n" + REQUEST[:n_bytes])
        assert 200 == connection.read_response().status
        connection.reset()


@pytest.mark.skipif(not HAS_APP, reason="nginx has no application behind it here")
@pytest.mark.parametrize("how", LEAVE)
@pytest.mark.parametrize(
    "target",
    [b"/slow?seconds=0.05", b"/large?bytes=3000000", b"/parts", b"/raises-within", b"/early"],
)
def test_clients_that_leave_within_a_response(server: Server, target: bytes, how: str) -> None:
    """Without a look at it, after its first bytes, and after some more."""
    for n_bytes in (0, 1, 20, 200, 2000, 200_000):
        connection = Connection(server.address, deadline_s=0.2)
        connection.send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target * 2)
        try:
            connection.read_exactly(n_bytes)
        except (Closed, ConnectionResetError, TimeoutError):
            pass
        LEAVE[how](connection)


def test_requests_that_are_reset_while_others_are_served(server: Server) -> None:
    """A client that does nothing wrong does not notice."""
    with Connection(server.address) as good:
        for n_bytes in range(0, len(REQUEST), 5):
            bad = Connection(server.address)
            bad.send(REQUEST[:n_bytes])
            good.send(b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n")
            bad.reset()
            assert 200 == good.read_response().status


def test_hundreds_that_send_a_byte_now_and_then(server: Server) -> None:
    """They neither keep others from being served nor leave anything behind."""
    slow = [Connection(server.address) for _ in range(N_SLOW)]
    sent = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    try:
        for byte in sent:
            for connection in slow:
                connection.send_if_open(bytes([byte]))
            assert server.answers()
    finally:
        for connection in slow:
            connection.reset()


@pytest.mark.skipif(not HAS_APP, reason="nginx has no application behind it here")
def test_hundreds_that_send_a_byte_of_a_body_now_and_then(server: Server) -> None:
    """Each is in the application, which waits for the rest."""
    slow = [Connection(server.address) for _ in range(N_SLOW)]
    try:
        for connection in slow:
            connection.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(10):
            for connection in slow:
                connection.send_if_open(b"x")
            assert server.answers()
    finally:
        for connection in slow:
            connection.reset()


@pytest.mark.skipif(not HAS_APP, reason="nginx has no application behind it here")
def test_hundreds_that_read_nothing(server: Server) -> None:
    """Their responses wait, and others are served."""
    slow = []
    try:
        for _ in range(N_SLOW):
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.connect(server.address)
            plain.sendall(b"GET /large?bytes=5000000 HTTP/1.1\r\nHost: a\r\n\r\n")
            slow.append(plain)
        for _ in range(10):
            assert server.answers()
    finally:
        for plain in slow:
            plain.close()


def test_clients_that_pipeline_and_never_read_cost_little_memory(server: Server) -> None:
    """Of a client that does not read the answers not all requests are read, or not all are kept."""
    before = server.rss_bytes()
    with Connection(server.address, deadline_s=0.3) as connection:
        many = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 1000
        try:
            for _ in range((64 << 20) // len(many)):
                connection.send(many)
        except (TimeoutError, ConnectionResetError, BrokenPipeError):
            pass
        assert server.rss_bytes() - before < 16 << 20


def test_connections_that_are_opened_and_closed_at_once(server: Server) -> None:
    """A thousand, of which some are reset before they are accepted."""
    for i in range(1000):
        connection = Connection(server.address)
        if i % 2:
            connection.reset()
        else:
            connection.socket.close()


def test_the_end_of_a_connection_at_every_place_of_every_case(server: Server) -> None:
    """A random prefix of each case of the tables, and then the end: closed, reset, or half closed."""
    draw = random.Random(7)
    for cases in TABLES.values():
        for case in cases:
            with Connection(server.address) as connection:
                sent = case.sent[: draw.randrange(len(case.sent) + 1)]
                connection.send_if_open(sent)
                end = draw.randrange(3)
                if end == 0:
                    connection.reset()
                elif end == 1:
                    try:
                        connection.half_close()
                        connection.read_to_end()
                    except OSError:
                        pass


def _mutated(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5, 20])):
        place = draw.randrange(len(changed) + 1)
        what = draw.randrange(5)
        if what == 0:
            changed[place:place] = bytes([draw.randrange(256)])
        elif what == 1:
            del changed[place : place + draw.choice([1, 1, 2, 10])]
        elif what == 2 and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif what == 3:
            token = draw.choice(
                [b"\r", b"\n", b"\r\n", b"\0", b" ", b":", b";", b"0\r\n\r\n", b"-"]
            )
            changed[place:place] = token
        else:
            other = draw.randrange(len(changed) + 1)
            changed[place:place] = changed[other : other + 20]
    return bytes(changed)


def test_random_changes_of_the_cases_never_stop_the_server(server: Server) -> None:
    """Each connection ends with an answer or without; the server stays."""
    draw = random.Random(11)
    cases = [case for table in TABLES.values() for case in table if len(case.sent) < 4000]
    for _ in range(1500):
        sent = _mutated(draw, draw.choice(cases).sent + PROBE)
        with Connection(server.address) as connection:
            cut = draw.randrange(len(sent) + 1)
            connection.send_if_open(sent[:cut])
            connection.send_if_open(sent[cut:])
            try:
                connection.half_close()
                while connection.read_response():
                    pass
            except (Closed, NotHttp, OSError):
                pass
