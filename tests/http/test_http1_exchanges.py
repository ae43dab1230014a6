"""HTTP/1.1 beyond one message: 100-continue, HEAD, responses of applications that err, pipelining, half-close, upgrades."""

from __future__ import annotations

import re
import time

import pytest
import servers
from cases import echoed, final, statuses
from messages import Closed, Connection, NotHttp, exchange
from servers import Server, StartServer

CLOSE = b"Connection: close\r\n"
NEEDS_APP = pytest.mark.skipif(
    servers.chosen_kind() == "nginx", reason="nginx has no application behind it here"
)
# Of another server we do not ask what we want of ours beyond the RFC.
OURS_ONLY = pytest.mark.skipif(
    servers.chosen_kind() != servers.OURS, reason="more than the RFC asks for"
)


def _request(target: bytes, *, method: bytes = b"GET", headers: bytes = b"") -> bytes:
    return b"%s %s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (method, target, headers)


# --- 100-continue (RFC 9110, 10.1.1) ---


@NEEDS_APP
def test_an_application_that_reads_the_body_makes_the_server_ask_for_it(server: Server) -> None:
    """The body comes only after the interim response, and no second one is sent."""
    with Connection(server.address) as connection:
        head = b"Content-Length: 5\r\nExpect: 100-continue\r\n"
        connection.send(_request(b"/x", method=b"POST", headers=head + CLOSE))
        assert 100 == connection.read_response().status
        connection.send(b"hello")
        assert (b"POST", b"/x", b"5", b"hello") == echoed(connection.read_response().body)
        assert b"" == connection.read_to_end()


@NEEDS_APP
def test_the_expectation_is_not_case_sensitive(server: Server) -> None:
    """RFC 9110, 10.1.1: the value is compared without regard to case."""
    with Connection(server.address) as connection:
        head = b"Content-Length: 5\r\nExpect: 100-Continue\r\n"
        connection.send(_request(b"/x", method=b"POST", headers=head))
        assert 100 == connection.read_response().status


@NEEDS_APP
def test_a_body_that_does_not_wait_for_100_is_read_all_the_same(server: Server) -> None:
    """A client need not wait."""
    head = b"Content-Length: 5\r\nExpect: 100-continue\r\n" + CLOSE
    outcome = exchange(server.address, _request(b"/x", method=b"POST", headers=head) + b"hello")
    assert statuses(outcome) in ([200], [100, 200])
    assert b"hello" == echoed(final(outcome)[0].body)[3]


@NEEDS_APP
def test_an_answer_without_the_body_is_sent_without_100(server: Server) -> None:
    """A final status says that the body is not wanted; what comes then is the next request, or the connection closes."""
    with Connection(server.address) as connection:
        head = b"Content-Length: 5\r\nExpect: 100-continue\r\n"
        connection.send(_request(b"/early", method=b"POST", headers=head))
        response = connection.read_response()
        assert (200, b"early") == (response.status, response.body)
        # The client cannot know whether the server still counts on a body. If it stays open, it must take the body as such.
        if connection.send_if_open(b"hello" + _request(b"/probe", headers=CLOSE)):
            try:
                assert b"/probe" == echoed(connection.read_response().body)[1]
            except (Closed, ConnectionResetError):
                pass


@NEEDS_APP
def test_1_0_is_never_sent_100(server: Server) -> None:
    """RFC 9110, 10.1.1: a server must ignore the expectation in HTTP/1.0."""
    request = b"POST /x HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    assert [200] == statuses(exchange(server.address, request + b"hello"))


def test_other_expectations_are_refused_or_ignored(server: Server) -> None:
    """RFC 9110, 10.1.1: a server may answer 417."""
    head = b"Content-Length: 5\r\nExpect: 200-ok\r\n" + CLOSE
    outcome = exchange(server.address, _request(b"/x", method=b"POST", headers=head) + b"hello")
    assert statuses(outcome) in ([200], [417])


# --- Responses (RFC 9110, 6.4, 9.3.2 and 15; RFC 9112, 6.3) ---


@pytest.mark.parametrize("target", [b"/x", b"/parts", b"/early"])
def test_head_has_no_body(server: Server, target: bytes) -> None:
    """The next response on the connection begins where the head ended."""
    sent = _request(target, method=b"HEAD") + _request(b"/probe", headers=CLOSE)
    outcome = exchange(server.address, sent, methods=(b"HEAD",))
    assert [200, 200] == statuses(outcome)
    assert b"/probe" == echoed(outcome.responses[1].body)[1]


@NEEDS_APP
@pytest.mark.parametrize("status", [204, 304])
def test_responses_without_content_have_none_whatever_the_application_sends(
    server: Server, status: int
) -> None:
    """The body of the application is not taken for the next response."""
    sent = _request(b"/without-content?status=%d" % status) + _request(b"/probe", headers=CLOSE)
    outcome = exchange(server.address, sent)
    # An error of the application may be reported as such, by the end of the connection.
    assert statuses(outcome) in ([status, 200], [status], [500])
    if status == 204:
        assert outcome.responses[0].header(b"transfer-encoding") is None
        assert outcome.responses[0].header(b"content-length") is None
    if len(outcome.responses) == 2:
        assert b"/probe" == echoed(outcome.responses[1].body)[1]


@NEEDS_APP
def test_a_body_of_unknown_length_is_chunked_to_1_1(server: Server) -> None:
    """The connection stays usable."""
    outcome = exchange(server.address, _request(b"/parts") + _request(b"/probe", headers=CLOSE))
    assert [200, 200] == statuses(outcome)
    assert b"one two three" == outcome.responses[0].body
    assert b"chunked" == outcome.responses[0].header(b"transfer-encoding")


@NEEDS_APP
@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
def test_a_body_of_unknown_length_ends_with_the_connection_to_1_0(
    server: Server, connection: bytes
) -> None:
    """RFC 9112, 6.1: no transfer coding goes to a client of HTTP/1.0."""
    outcome = exchange(server.address, b"GET /parts HTTP/1.0\r\n" + connection + b"\r\n")
    assert [200] == statuses(outcome)
    assert outcome.responses[0].header(b"transfer-encoding") is None
    assert b"one two three" == outcome.responses[0].body


@NEEDS_APP
def test_responses_have_a_date_and_one_length(server: Server) -> None:
    """RFC 9110, 6.6.1: an origin server with a clock sends Date."""
    outcome = exchange(server.address, _request(b"/x", headers=CLOSE))
    (response,) = outcome.responses
    (date,) = response.all(b"date")
    time.strptime(date.decode(), "%a, %d %b %Y %H:%M:%S GMT")
    assert 1 == len(response.all(b"content-length"))


@NEEDS_APP
@pytest.mark.parametrize("target", [b"/splitting", b"/splitting-name"])
def test_a_line_break_in_a_header_of_the_application_does_not_go_out(
    server: Server, target: bytes
) -> None:
    """Response splitting is the application's error: 500, or the end of the connection."""
    outcome = exchange(server.address, _request(target, headers=CLOSE))
    assert statuses(outcome) in ([500], [])


@NEEDS_APP
def test_a_body_that_is_too_short_ends_the_connection(server: Server) -> None:
    """No other response fills it up."""
    sent = _request(b"/too-short") + _request(b"/probe", headers=CLOSE)
    outcome = exchange(server.address, sent)
    # Either the response is cut, or, since nothing of it is out, it becomes 500.
    assert statuses(outcome) in ([], [500])
    assert outcome.ended in ("closed", "reset")
    assert b"/probe" not in outcome.rest


@NEEDS_APP
def test_a_body_that_is_too_long_is_cut(server: Server) -> None:
    """What is beyond the length is not taken for a response."""
    outcome = exchange(server.address, _request(b"/too-long") + _request(b"/probe", headers=CLOSE))
    assert statuses(outcome) in ([200], [200, 200], [500], [500, 200], [])
    if outcome.status == 200:
        assert b"longe" == outcome.responses[0].body
    for response in outcome.responses[1:]:
        assert b"/probe" == echoed(response.body)[1]


@NEEDS_APP
def test_an_application_with_two_lengths_sends_one(server: Server) -> None:
    """RFC 9112, 6.2: a sender must not send both."""
    outcome = exchange(
        server.address, _request(b"/both-lengths") + _request(b"/probe", headers=CLOSE)
    )
    if outcome.status == 200:
        assert b"both" == outcome.responses[0].body
        assert b"/probe" == echoed(outcome.responses[1].body)[1]
    else:
        assert outcome.status in (0, 500)


@NEEDS_APP
@pytest.mark.parametrize("target", [b"/raises", b"/no-answer"])
def test_an_application_that_does_not_answer_is_answered_for(server: Server, target: bytes) -> None:
    """500, without a word of the error."""
    outcome = exchange(server.address, _request(target, headers=CLOSE))
    assert [500] == statuses(outcome)
    assert b"purpose" not in outcome.responses[0].body


@NEEDS_APP
def test_an_application_that_raises_within_a_response_cuts_it(server: Server) -> None:
    """The client can tell that the body is not whole: the last chunk does not come."""
    sent = _request(b"/raises-within") + _request(b"/probe", headers=CLOSE)
    outcome = exchange(server.address, sent)
    assert [] == statuses(outcome)
    assert outcome.ended in ("closed", "reset")


# --- The connection (RFC 9112, 9) ---


def test_requests_in_a_row_are_answered_in_order(server: Server) -> None:
    """A hundred at once, with and without bodies."""
    sent = b"".join(
        _request(b"/%d" % i, method=b"POST", headers=b"Content-Length: 3\r\n") + b"%03d" % i
        if i % 2
        else _request(b"/%d" % i)
        for i in range(100)
    )
    outcome = exchange(server.address, sent + _request(b"/probe", headers=CLOSE))
    expected = [b"/%d" % i for i in range(100)] + [b"/probe"]
    assert expected == [echoed(it.body)[1] for it in outcome.responses]


@NEEDS_APP
def test_a_slow_request_holds_up_those_behind_it(server: Server) -> None:
    """Responses come in the order of the requests."""
    sent = _request(b"/slow") + _request(b"/early") + _request(b"/probe", headers=CLOSE)
    outcome = exchange(server.address, sent)
    assert [b"slow", b"early"] == [it.body for it in outcome.responses[:2]]
    assert 3 == len(outcome.responses)


@NEEDS_APP
@pytest.mark.parametrize("target", [b"/x", b"/early"])
def test_a_client_that_ends_its_side_is_answered(server: Server, target: bytes) -> None:
    """Half of the connection is still there for the answer."""
    outcome = exchange(server.address, _request(target), half_close=True)
    assert [200] == statuses(outcome)
    assert "closed" == outcome.ended


@NEEDS_APP
@pytest.mark.parametrize("target", [b"/slow", b"/parts"])
def test_a_client_that_ends_its_side_is_taken_for_gone(server: Server, target: bytes) -> None:
    """No RFC says what its end means: a slow answer comes whole, or is given up and does not."""
    outcome = exchange(server.address, _request(target), half_close=True)
    assert statuses(outcome) in ([200], [])
    assert outcome.ended in ("closed", "reset")


@NEEDS_APP
def test_a_request_without_its_end_is_not_answered_by_the_application(server: Server) -> None:
    """A body that ends too early: 400, or the end of the connection."""
    head = b"Content-Length: 5\r\n"
    sent = _request(b"/x", method=b"POST", headers=head) + b"hel"
    outcome = exchange(server.address, sent, half_close=True)
    assert outcome.status in (0, 400)
    assert outcome.ended in ("closed", "reset")


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_client_that_ends_within_the_head_is_let_go(server: Server, sent: bytes) -> None:
    """400, or the end of the connection, at once."""
    outcome = exchange(server.address, sent, half_close=True)
    assert outcome.status in (0, 400, 408)
    assert outcome.ended in ("closed", "reset")


@NEEDS_APP
def test_an_early_answer_reaches_a_client_that_still_sends(server: Server) -> None:
    """A body that nobody reads does not cost the client the answer by a reset."""
    with Connection(server.address) as connection:
        n_bytes = 4 << 20
        head = b"Content-Length: %d\r\n" % n_bytes
        connection.send(_request(b"/early", method=b"POST", headers=head))
        connection.send_if_open(bytes(n_bytes))
        assert b"early" == connection.read_response().body


UPGRADES = {
    "unknown": b"Connection: upgrade\r\nUpgrade: foo/2\r\n",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "not named in Connection": b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "empty": b"Connection: upgrade\r\nUpgrade:\r\n",
    "TLS": b"Connection: upgrade\r\nUpgrade: TLS/1.0\r\n",
}


@pytest.mark.parametrize("name", UPGRADES)
def test_an_upgrade_that_is_not_wanted_is_ignored(server: Server, name: str) -> None:
    """RFC 9110, 7.8: a server may ignore it, and goes on in HTTP/1.1."""
    sent = _request(b"/x", headers=UPGRADES[name]) + _request(b"/probe", headers=CLOSE)
    outcome = exchange(server.address, sent)
    assert [200, 200] == statuses(outcome)
    assert b"/x" == echoed(outcome.responses[0].body)[1]


@NEEDS_APP
def test_an_application_without_websockets_refuses_the_upgrade(shared_server: StartServer) -> None:
    """With a status of its own, never 101; afterwards the server goes on."""
    server = shared_server(app="echo_app:plain_app")
    headers = (
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    with Connection(server.address) as connection:
        connection.send(_request(b"/x", headers=headers))
        assert connection.read_response().status in (200, 400, 403, 404, 426, 500, 501)
    assert server.answers()


def test_http2_in_clear_text_is_spoken_or_refused(server: Server) -> None:
    """The preface of HTTP/2 is never taken for a request."""
    with Connection(server.address) as connection:
        connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        try:
            assert connection.read_response().status in (400, 405, 505)
        except NotHttp:
            # The settings of the server: a frame on stream zero, of type 4.
            assert b"\4\0\0\0\0\0" == connection.read_exactly(9)[3:]
        except (Closed, ConnectionResetError):
            pass


# --- What the application sees ---


@NEEDS_APP
def test_the_application_sees_headers_as_they_came(server: Server) -> None:
    """Lower-case names in order, values without the spaces around them, repeated ones one by one."""
    headers = b"X-One:  1 \r\nCookie: a=b\r\nX-Two: \xe4\r\nCookie: c=d\r\nX-Empty:\r\n" + CLOSE
    outcome = exchange(server.address, _request(b"/headers", headers=headers))
    lines = outcome.responses[0].body.splitlines()
    assert [b"cookie: a=b", b"cookie: c=d"] == [it for it in lines if it.startswith(b"cookie")]
    assert {b"x-one: 1", b"x-two: \xe4", b"x-empty: "} <= set(lines)


@NEEDS_APP
def test_trailers_do_not_become_headers(server: Server) -> None:
    """RFC 9110, 6.5.1: a recipient must not merge them without knowing that it may."""
    body = b"5\r\nhello\r\n0\r\nX-Late: yes\r\nAuthorization: x\r\n\r\n"
    headers = b"Transfer-Encoding: chunked\r\n" + CLOSE
    outcome = exchange(
        server.address, _request(b"/headers", method=b"POST", headers=headers) + body
    )
    assert [200] == statuses(outcome)
    assert not re.search(b"x-late|authorization", outcome.responses[0].body)


@NEEDS_APP
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_the_application_sees_a_client_that_left(server: Server, how: str) -> None:
    """`http.disconnect`, for as long as it listens."""
    from waiting import wait_until

    def n_left() -> int:
        outcome = exchange(server.address, _request(b"/counts", headers=CLOSE))
        return int(outcome.responses[0].body.split()[1])

    before = n_left()
    connection = Connection(server.address)
    connection.send(_request(b"/until-left"))
    wait_until(lambda: _n_inside(server) == 1)
    connection.reset() if how == "reset" else connection.socket.close()
    wait_until(lambda: n_left() == before + 1)
    assert 0 == _n_inside(server)


def _n_inside(server: Server) -> int:
    outcome = exchange(server.address, _request(b"/counts", headers=CLOSE))
    return int(outcome.responses[0].body.split()[0])


# --- Requests behind chunked bodies (RFC 9112, 2.2 and 7.1) ---

_CHUNKED = b"Transfer-Encoding: chunked\r\n"
# A lenient server takes what follows the bare LF for a trailer, or for the next request.
_BARE_LF = b"0\r\n\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"


@OURS_ONLY
@pytest.mark.parametrize("n_requests_before", [0, 1, 30])
@pytest.mark.parametrize("target", [b"/x", b"/early", b"/slow?seconds=0.1"])
def test_no_request_behind_a_body_that_can_be_misread_is_answered(
    server: Server, target: bytes, n_requests_before: int
) -> None:
    """Whether the application reads the body or not: the connection is closed behind the answer."""
    before = _request(b"/before") * n_requests_before
    bad = _request(target, method=b"POST", headers=_CHUNKED) + b"5\r\nhello\r\n" + _BARE_LF
    outcome = exchange(server.address, before + bad + _request(b"/next") * 3)
    assert [200] * n_requests_before == statuses(outcome)[:-1]
    assert statuses(outcome)[-1] == (200 if target == b"/early" else 400)
    assert b"close" == outcome.responses[-1].header(b"connection")
    assert "closed" == outcome.ended


@NEEDS_APP
@pytest.mark.parametrize("n_bytes", [1, 20_000, 300_000])
def test_requests_behind_long_bodies_are_answered(server: Server, n_bytes: int) -> None:
    """Bodies of each kind, with trailers, and with data that look like their ends."""
    part = b"\r\n0\r\n\n\nX" * 100
    chunks = b"".join(b"%x;a\r\n%s\r\n" % (len(part), part) for _ in range(n_bytes // len(part)))
    chunked = chunks + b"0\r\nX: y\r\nY: \r\n\r\n"
    data = part * (n_bytes // len(part) + 1)
    length = b"Content-Length: %d\r\n" % len(data)
    sent = (
        _request(b"/a", method=b"POST", headers=_CHUNKED) + chunked,
        _request(b"/b"),
        _request(b"/c", method=b"POST", headers=length) + data,
        _request(b"/d", method=b"POST", headers=_CHUNKED) + chunked,
        _request(b"/e", headers=CLOSE),
    )
    outcome = exchange(server.address, b"".join(sent))
    assert [200] * len(sent) == statuses(outcome)
    n_sent = [n_bytes // len(part) * len(part), 0, len(data), n_bytes // len(part) * len(part), 0]
    assert n_sent == [int(echoed(it.body)[2]) for it in outcome.responses]
