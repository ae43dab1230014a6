"""Limits: each is answered with its status, what is just within it is served, and the connection ends."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

import pytest
import servers
from cases import NO_ANSWER, PROBE, echoed, final, statuses
from messages import DEADLINE_S, Closed, Connection, Outcome, Response, exchange
from servers import Server, StartServer
from waiting import wait_until

# What sets a limit, as options of ours and as directives of nginx; None where it has none.
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]] = {
    "line": (("--limit-request-line", "1024"), ("large_client_header_buffers 4 1k",)),
    "headers": (("--limit-request-headers", "10"), None),
    "head": (
        ("--limit-request-line", "1024", "--limit-request-head", "4096"),
        ("large_client_header_buffers 4 1k",),
    ),
    "body": (("--limit-request-body", "1000"), ("client_max_body_size 1000",)),
    "slow head": (("--timeout-request-head", "0.4"), ("client_header_timeout 400ms",)),
    "slow body": (("--timeout-request-body", "0.4"), ("client_body_timeout 400ms",)),
    "slow reader": (("--timeout-response", "0.5"), None),
    "idle": (("--timeout-keep-alive", "0.4"), ("keepalive_timeout 400ms",)),
    "requests": (("--limit-concurrency", "2"), None),
    "connections": (("--limit-connections", "3"), None),
}

StartLimited = Callable[[str], Server]


@pytest.fixture
def limited(shared_server: StartServer) -> StartLimited:
    """Return a server with the limit of this name."""

    def start(name: str) -> Server:
        ours, of_nginx = OPTIONS[name]
        kind = servers.chosen_kind()
        if kind == servers.OURS:
            return shared_server(*ours)
        if kind == "nginx" and of_nginx is not None:
            return shared_server(*of_nginx)
        pytest.skip(f"{kind} has no such limit, or it is not known here")

    return start


def _get(target: bytes, headers: bytes = b"") -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (target, headers)


def _post(headers: bytes, body: bytes) -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: a\r\n%s\r\n%s" % (headers, body)


def _chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(it), it) for it in parts) + b"0\r\n\r\n"


def _is_served(outcome: Outcome) -> bool:
    return [200, 200] == statuses(outcome) and echoed(outcome.responses[1].body)[1] == b"/probe"


def test_a_target_that_is_too_long_is_414(limited: StartLimited) -> None:
    """RFC 9112, 3: a server must answer 414."""
    server = limited("line")
    assert _is_served(exchange(server.address, _get(b"/" + b"x" * 900) + PROBE))
    for n_bytes in (1100, 3000, 100_000):
        outcome = exchange(server.address, _get(b"/" + b"x" * n_bytes) + PROBE)
        # Beyond the limit of the whole head, nobody has looked yet where its lines end.
        assert outcome.status in ({414} if n_bytes < 65_536 else {414, 431}), n_bytes
        assert 1 == len(outcome.responses)
        assert outcome.ended in ("closed", "reset")


def test_a_request_line_without_end_is_refused(limited: StartLimited) -> None:
    """It is not collected for ever: the answer comes before the end of the line."""
    server = limited("line")
    outcome = _feed(server, b"GET /", b"x" * 4096)
    assert outcome.status in (414, 431, NO_ANSWER)
    assert server.answers()


def test_too_many_headers_are_431(limited: StartLimited) -> None:
    """RFC 6585, 5. Host is the first of ten."""
    server = limited("headers")
    assert _is_served(exchange(server.address, _get(b"/", b"X: y\r\n" * 9) + PROBE))
    for n_headers in (10, 100, 500):
        outcome = exchange(server.address, _get(b"/", b"X: y\r\n" * n_headers) + PROBE)
        assert [431] == statuses(outcome), n_headers


def test_a_head_that_is_too_large_is_431(limited: StartLimited) -> None:
    """One header or all of them; nginx answers 400 with a text that says so."""
    server = limited("head")
    refused = {431} if server.is_ours else {400, 431}
    assert _is_served(exchange(server.address, _get(b"/", b"X: " + b"y" * 800 + b"\r\n") + PROBE))
    long = (b"X: " + b"y" * 6000 + b"\r\n", (b"X: " + b"y" * 500 + b"\r\n") * 12)
    for headers in long:
        outcome = exchange(server.address, _get(b"/", headers) + PROBE)
        assert 1 == len(outcome.responses)
        assert outcome.status in refused


@pytest.mark.parametrize("unit", [b"y" * 4096, b"X: y\r\n" * 500], ids=["a header", "headers"])
def test_a_head_without_end_is_refused(limited: StartLimited, unit: bytes) -> None:
    """The answer comes before its end, and the memory is bounded."""
    server = limited("head")
    outcome = _feed(server, b"GET / HTTP/1.1\r\nHost: a\r\nX: ", unit)
    assert outcome.status in (400, 431, NO_ANSWER)
    assert server.answers()


def _feed(server: Server, begin: bytes, unit: bytes, *, pause_s: float = 0.0) -> Outcome:
    """Send one unit after the other until the server answers or closes; fail if it takes 64 MiB or the deadline."""
    outcome = Outcome()
    deadline_s = time.monotonic() + DEADLINE_S
    with Connection(server.address) as connection:
        connection.send(begin)
        for _ in range((64 << 20) // len(unit)):
            assert time.monotonic() < deadline_s, "the server reads on"
            if select.select([connection.socket], [], [], pause_s)[0]:
                break
            if not connection.send_if_open(unit):
                break
        else:
            raise AssertionError("the server has taken 64 MiB")
        try:
            outcome.responses.append(connection.read_response())
            assert b"" == connection.read_to_end()
        except (Closed, ConnectionResetError):
            pass
    return outcome


@pytest.mark.parametrize("how", ["length", "chunks", "one chunk"])
def test_a_body_that_is_too_large_is_413(limited: StartLimited, how: str) -> None:
    """RFC 9110, 15.5.14. A thousand bytes are served."""
    server = limited("body")

    def request(n_bytes: int) -> bytes:
        if how == "length":
            return _post(b"Content-Length: %d\r\n" % n_bytes, b"x" * n_bytes)
        parts = [b"x" * n_bytes] if how == "one chunk" else [b"x"] * n_bytes
        return _post(b"Transfer-Encoding: chunked\r\n", _chunked(*parts))

    assert _is_served(exchange(server.address, request(1000) + PROBE))
    outcome = exchange(server.address, request(1001) + PROBE)
    assert 413 == outcome.status
    for response in outcome.responses[1:]:
        assert b"/probe" == echoed(response.body)[1]


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(limited: StartLimited) -> None:
    """Neither 100 nor a wait."""
    server = limited("body")
    headers = b"Content-Length: 1000000\r\nExpect: 100-continue\r\n"
    with Connection(server.address) as connection:
        connection.send(_post(headers, b""))
        assert 413 == connection.read_response().status


def test_a_client_that_sends_nothing_is_let_go(limited: StartLimited) -> None:
    """408, or, as nginx and we have it, the end alone: there is no request that an answer could be for."""
    server = limited("slow head")
    outcome = exchange(server.address, b"")
    assert outcome.status in ({NO_ANSWER} if server.is_ours else {408, NO_ANSWER})
    assert outcome.ended in ("closed", "reset")


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r"])
def test_a_head_that_stops_is_408(limited: StartLimited, sent: bytes) -> None:
    """RFC 9110, 15.5.9. nginx closes without an answer."""
    server = limited("slow head")
    outcome = exchange(server.address, sent)
    assert outcome.status in ({408} if server.is_ours else {408, NO_ANSWER})
    assert outcome.ended in ("closed", "reset")


def test_a_head_that_never_ends_is_408(limited: StartLimited) -> None:
    """The time counts from the first byte: a client cannot prolong it by one more header."""
    server = limited("slow head")
    outcome = _feed(server, b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n", pause_s=0.02)
    assert outcome.status in ({408} if server.is_ours else {408, NO_ANSWER})


def test_a_second_head_that_stops_is_408(limited: StartLimited) -> None:
    """The same on a connection that has served a request; one that is still idle to the server is closed."""
    server = limited("slow head")
    with Connection(server.address) as connection:
        connection.send(_get(b"/"))
        assert 200 == connection.read_response().status
        connection.send(b"GET / HTTP/1.1\r\nHo")
        try:
            assert 408 == connection.read_response().status
            assert b"" == connection.read_to_end()
        except (Closed, ConnectionResetError):
            assert not server.is_ours


def test_a_head_that_stops_behind_another_is_let_go(limited: StartLimited) -> None:
    """Half a head that came with the request before it."""
    outcome = exchange(limited("slow head").address, _get(b"/") + b"GET / HTTP/1.1\r\nHo")
    assert [200] == statuses(outcome)[:1]
    assert statuses(outcome)[1:] in ([408], [])
    assert outcome.ended in ("closed", "reset")


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 10\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: ",
    ],
    ids=["length", "chunk", "trailer"],
)
def test_a_body_that_stops_is_408(limited: StartLimited, head: bytes) -> None:
    """The application that waits for it is told that the client is gone."""
    server = limited("slow body")
    outcome = exchange(server.address, b"POST /x HTTP/1.1\r\nHost: a\r\n" + head)
    assert outcome.status in ({408} if server.is_ours else {408, NO_ANSWER})
    assert outcome.ended in ("closed", "reset")


def test_a_body_that_goes_on_is_read(limited: StartLimited) -> None:
    """The time is between two parts: ten parts in twice the time are served."""
    server = limited("slow body")
    with Connection(server.address) as connection:
        connection.send(_post(b"Content-Length: 10\r\nConnection: close\r\n", b""))
        for _ in range(10):
            time.sleep(0.08)
            connection.send(b"x")
        response = connection.read_response()
        assert (200, b"10") == (response.status, echoed(response.body)[2])


def test_an_idle_connection_is_closed(limited: StartLimited) -> None:
    """Without an answer to a request that was not sent, and not reset."""
    server = limited("idle")
    outcome = exchange(server.address, _get(b"/"))
    assert [200] == statuses(outcome)
    assert "closed" == outcome.ended


def test_a_request_on_an_idle_connection_begins_the_time_anew(limited: StartLimited) -> None:
    """Six requests in twice the time."""
    server = limited("idle")
    with Connection(server.address) as connection:
        for _ in range(6):
            connection.send(_get(b"/"))
            assert 200 == connection.read_response().status
            time.sleep(0.13)


def _counts(server: Server) -> list[int]:
    outcome = exchange(server.address, _get(b"/counts", b"Connection: close\r\n"))
    return [int(it) for it in outcome.responses[0].body.split()] if outcome.status == 200 else []


def test_a_reader_that_takes_nothing_is_dropped(limited: StartLimited) -> None:
    """Its application ends, and its socket is closed."""
    server = limited("slow reader")
    wait_until(server.answers)
    n_sockets = server.n_sockets()
    with Connection(server.address) as connection:
        connection.send(_get(b"/large?bytes=100000000"))
        wait_until(lambda: _counts(server)[:1] == [1])
        wait_until(lambda: _counts(server)[:1] == [0])
        wait_until(lambda: server.n_sockets() <= n_sockets)


def test_a_reader_that_takes_little_is_served(limited: StartLimited) -> None:
    """A second and more for what is read in parts, each within the time."""
    server = limited("slow reader")
    n_bytes = 20_000_000
    with Connection(server.address) as connection:
        connection.socket.setsockopt(1, 8, 65536)
        connection.send(_get(b"/large?bytes=%d" % n_bytes, b"Connection: close\r\n"))
        n_read = 0
        for _ in range(5):
            time.sleep(0.2)
            n_read += len(connection.read_exactly(400_000))
        n_read += len(connection.read_to_end())
        assert n_bytes < n_read < n_bytes + 1000


def test_a_slow_reader_costs_little_memory(server: Server) -> None:
    """The application waits in `send`, and what is unsent is bounded."""
    if server.kind == "nginx":
        pytest.skip("nginx has no application behind it here")
    assert server.answers()
    before = server.rss_bytes()
    readers = [Connection(server.address) for _ in range(20)]
    try:
        for reader in readers:
            reader.send(_get(b"/large?bytes=50000000"))
        wait_until(lambda: _counts(server)[:1] == [20])
        # As soon as one more request has gone through, all have sent what they can.
        for _ in range(20):
            assert server.answers()
        assert server.rss_bytes() - before < 40 << 20
    finally:
        for reader in readers:
            reader.reset()
    wait_until(lambda: _counts(server)[:1] == [0])


def test_too_many_requests_are_503(limited: StartLimited) -> None:
    """RFC 9110, 15.6.4; when the others are done, it is served again."""
    server = limited("requests")
    busy = [Connection(server.address) for _ in range(2)]
    try:
        for connection in busy:
            connection.send(_get(b"/until-left"))
        wait_until(lambda: exchange(server.address, _get(b"/") + PROBE).status == 503)
        response = _only(exchange(server.address, _get(b"/", b"Connection: close\r\n")))
        assert 503 == response.status
    finally:
        for connection in busy:
            connection.socket.close()
    wait_until(server.answers)


def _only(outcome: Outcome) -> Response:
    (response,) = final(outcome)
    return response


def test_too_many_connections_wait(limited: StartLimited) -> None:
    """More than the limit are not served at the same time; when some are closed, they are: test_connection_limit.py."""
    server = limited("connections")
    held = []
    try:
        for _ in range(3):
            connection = Connection(server.address)
            held.append(connection)
            connection.send(_get(b"/"))
            assert 200 == connection.read_response().status
        with Connection(server.address, deadline_s=0.5) as another:
            another.send_if_open(_get(b"/"))
            try:
                assert 503 == another.read_response().status
            except (TimeoutError, Closed, ConnectionResetError):
                pass
    finally:
        for connection in held:
            connection.socket.close()
    wait_until(server.answers)
