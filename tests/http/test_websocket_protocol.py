"""Websockets as a table, and what is around it: the handshake, compression, limits, and how the application hears of it."""

from __future__ import annotations

import zlib

import cases_websocket
import pytest
import servers
from cases import final
from cases_websocket import ECHOED, TOO_LARGE, FrameCase
from messages import Closed, Connection, exchange
from servers import Server, StartServer
from waiting import wait_until
from websocket_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFLATE,
    PING,
    PONG,
    TEXT,
    Frame,
    WebSocket,
    close_frame,
    deflated,
    frame,
    handshake,
    in_pieces,
)

pytestmark = pytest.mark.skipif(
    not servers.speaks("websockets"), reason=f"{servers.chosen_kind()} does not speak websockets"
)

TABLES = {
    "frame": cases_websocket.FRAMES,
    "control": cases_websocket.CONTROL,
    "parts": cases_websocket.PARTS,
    "UTF-8": cases_websocket.UTF8,
    "close": cases_websocket.CLOSES,
}


def _parameters(tables: dict[str, tuple[FrameCase, ...]]) -> list[object]:
    return [
        pytest.param(case, id=f"{table}: {case.name}")
        for table, cases in tables.items()
        for case in cases
    ]


def _check(case: FrameCase, websocket: WebSocket) -> None:
    """Read what comes back, close after the last reply, and look at the code."""
    frames: list[Frame] = []
    try:
        for _ in case.replies:
            frames.append(websocket.read_message())
            if frames[-1].opcode == CLOSE:
                break
    except (Closed, ConnectionResetError):
        pass
    if case.codes >= ECHOED:
        websocket.send(close_frame(1000))
    frames += websocket.rest()
    replies = [(it.opcode, it.payload) for it in frames if it.opcode != CLOSE]
    closes = [it for it in frames if it.opcode == CLOSE]
    assert len(closes) <= 1
    code = closes[0].code if closes else None
    assert code in case.codes, f"RFC {case.section}: closed with {code}; {frames}"
    if code in ECHOED:
        assert list(case.replies) == replies
    else:
        # A server may close before it has sent what it had.
        assert list(case.replies)[: len(replies)] == replies


@pytest.mark.parametrize("case", _parameters(TABLES))
def test_frames_are_answered_as_the_rfc_says(server: Server, case: FrameCase) -> None:
    """What was good before is answered, and what is wrong closes with its code."""
    with WebSocket(server.address) as websocket:
        websocket.send(case.sent)
        _check(case, websocket)


@pytest.mark.parametrize("case", _parameters(TABLES))
def test_cuts_of_frames_change_nothing(server: Server, case: FrameCase) -> None:
    """The same in pieces of one byte, or of a thousand if it is long."""
    with WebSocket(server.address) as websocket:
        for piece in in_pieces(case.sent, 1 if len(case.sent) < 1000 else 1000):
            websocket.send(piece)
        _check(case, websocket)


@pytest.mark.parametrize("case", _parameters({"compressed": cases_websocket.COMPRESSED}))
def test_compressed_frames_are_answered_as_the_rfc_says(server: Server, case: FrameCase) -> None:
    """After the extension was agreed on."""
    with _compressing(server) as websocket:
        websocket.send(case.sent)
        _check(case, websocket)


@pytest.mark.parametrize("case", _parameters({"early": cases_websocket.UTF8_EARLY}))
def test_invalid_text_is_found_before_the_message_ends(server: Server, case: FrameCase) -> None:
    """RFC 6455, 8.1 allows it, and Autobahn's tests ask for it."""
    with WebSocket(server.address) as websocket:
        websocket.send(case.sent)
        websocket.connection.socket.settimeout(2 if server.is_ours else 0.3)
        try:
            _check(case, websocket)
        except TimeoutError:
            pytest.skip(f"{server.kind} finds it at the end of the message")


def _compressing(server: Server, offer: bytes = DEFLATE) -> WebSocket:
    websocket = WebSocket(server.address, headers=offer)
    if websocket.response.header(b"sec-websocket-extensions") is None:
        websocket.connection.socket.close()
        pytest.skip(f"{server.kind} does not compress")
    return websocket


# --- The handshake (RFC 6455, 4.2) ---

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
ASKS = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
# Other answers than 101: it is no handshake, and may be taken for a request of its own (200).
NOT_A_HANDSHAKE = frozenset({200, 400, 404, 405, 426, 501})

HANDSHAKES = {
    "good": (b"GET", ASKS + VERSION + KEY, {101}),
    "in capitals": (b"GET", b"UPGRADE: WEBSOCKET\r\nCONNECTION: UPGRADE\r\n" + VERSION + KEY, {101}),
    "Connection as a list": (b"GET", b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" + VERSION + KEY, {101}),
    "no key": (b"GET", ASKS + VERSION, NOT_A_HANDSHAKE),
    "two keys": (b"GET", ASKS + VERSION + KEY + KEY, NOT_A_HANDSHAKE | {101}),
    "key of another length": (b"GET", ASKS + VERSION + b"Sec-WebSocket-Key: YWJj\r\n", NOT_A_HANDSHAKE | {101}),
    "key that is no base64": (b"GET", ASKS + VERSION + b"Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!!!\r\n", NOT_A_HANDSHAKE | {101}),
    "no version": (b"GET", ASKS + KEY, NOT_A_HANDSHAKE),
    "version 12": (b"GET", ASKS + b"Sec-WebSocket-Version: 12\r\n" + KEY, {400, 426}),
    "no Connection": (b"GET", b"Upgrade: websocket\r\n" + VERSION + KEY, NOT_A_HANDSHAKE),
    "another protocol": (b"GET", b"Upgrade: other\r\nConnection: Upgrade\r\n" + VERSION + KEY, NOT_A_HANDSHAKE),
    "POST": (b"POST", ASKS + VERSION + KEY + b"Content-Length: 0\r\n", NOT_A_HANDSHAKE),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDSHAKES)
def test_handshakes_are_answered_as_the_rfc_says(server: Server, name: str) -> None:
    """101 for what is one, and never for what lacks a part."""
    method, headers, permitted = HANDSHAKES[name]
    with Connection(server.address) as connection:
        connection.send(b"%s / HTTP/1.1\r\nHost: a\r\n%s\r\n" % (method, headers))
        response = connection.read_response()
        assert response.status in permitted
        if response.status == 101:
            assert response.header(b"sec-websocket-accept")
        if name == "version 12" and response.status == 426:
            assert b"13" in (response.header(b"sec-websocket-version") or b"")


def test_a_handshake_in_1_0_is_none(server: Server) -> None:
    """RFC 6455, 4.2.1: HTTP/1.1 or higher."""
    sent = b"GET / HTTP/1.0\r\nHost: a\r\n" + ASKS + VERSION + KEY + b"\r\n"
    assert exchange(server.address, sent).status in NOT_A_HANDSHAKE | {0, 505}


def test_a_refused_websocket_is_403(server: Server) -> None:
    """As ASGI says of an application that closes before it accepts."""
    with Connection(server.address) as connection:
        assert 403 == handshake(connection, b"/refuse").status


def test_the_subprotocol_is_that_of_the_application(server: Server) -> None:
    """One of those that were offered, or none."""
    offered = b"Sec-WebSocket-Protocol: one, two\r\n"
    with WebSocket(server.address, headers=offered) as websocket:
        assert b"one" == websocket.response.header(b"sec-websocket-protocol")
    with WebSocket(server.address) as websocket:
        assert websocket.response.header(b"sec-websocket-protocol") is None


def test_frames_right_behind_the_handshake_are_read(server: Server) -> None:
    """A client may send before it has read the answer: what the HTTP side has read belongs to the websocket."""
    with Connection(server.address) as connection:
        head = b"GET / HTTP/1.1\r\nHost: a\r\n" + ASKS + VERSION + KEY + b"\r\n"
        connection.send(head + frame(TEXT, b"early"))
        assert 101 == connection.read_response().status
        assert b"\x81\x05early" == connection.read_exactly(7)


# --- Compression (RFC 7692) ---

OFFERS = {
    "plain": b"permessage-deflate",
    "with the window of the client": b"permessage-deflate; client_max_window_bits",
    "with a window of the server": b"permessage-deflate; server_max_window_bits=10",
    "without contexts": b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "in quotes": b'permessage-deflate; server_max_window_bits="10"',
    "second of two": b"x-unknown; a=b, permessage-deflate",
    "with a fallback": b"permessage-deflate; unknown_parameter, permessage-deflate",
}

BAD_OFFERS = {
    "unknown parameter": b"permessage-deflate; unknown_parameter",
    "window too large": b"permessage-deflate; server_max_window_bits=16",
    "window too small": b"permessage-deflate; server_max_window_bits=7",
    "window with a zero first": b"permessage-deflate; server_max_window_bits=08",
    "parameter twice": b"permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "value of a flag": b"permessage-deflate; server_no_context_takeover=1",
    "another extension": b"permessage-bzip2",
}


@pytest.mark.parametrize("name", OFFERS)
def test_offers_of_compression_are_taken_as_the_rfc_says(server: Server, name: str) -> None:
    """What the answer names was offered, and messages go both ways under it."""
    offer = b"Sec-WebSocket-Extensions: %s\r\n" % OFFERS[name]
    with _compressing(server, offer) as websocket:
        answer = websocket.response.header(b"sec-websocket-extensions") or b""
        agreed = {it.strip().partition(b"=")[0]: it for it in answer.split(b";")}
        assert b"permessage-deflate" in agreed
        if name == "without contexts":
            assert b"server_no_context_takeover" in agreed
        if b"client_max_window_bits" in agreed:
            assert "with the window of the client" == name
        if "server" in name or "quotes" in name:
            assert agreed[b"server_max_window_bits"].partition(b"=")[2].strip(b'"') in (
                b"8",
                b"9",
                b"10",
            )
        bits = int((agreed.get(b"client_max_window_bits") or b"").partition(b"=")[2] or 15)
        # Twice the same, far enough apart for a window of 2^10 to be too small.
        text = (b"%05d " * 400) % tuple(range(400))
        compressor = zlib.compressobj(wbits=-max(bits, 9))
        for _ in range(3):
            if b"client_no_context_takeover" in agreed:
                compressor = zlib.compressobj(wbits=-max(bits, 9))
            websocket.send(frame(TEXT, deflated(text, compressor), reserved=4))
            if b"server_no_context_takeover" in agreed:
                websocket._inflate = zlib.decompressobj(wbits=-15)
            assert Frame(TEXT, text) == websocket.read_message()


@pytest.mark.parametrize("name", BAD_OFFERS)
def test_offers_that_are_invalid_are_declined(server: Server, name: str) -> None:
    """RFC 7692, 7.1: the server declines the offer, and the websocket works without; or it refuses all."""
    with Connection(server.address) as connection:
        offer = b"Sec-WebSocket-Extensions: %s\r\n" % BAD_OFFERS[name]
        response = handshake(connection, headers=offer)
        if response.status == 101:
            assert response.header(b"sec-websocket-extensions") is None
            connection.send(frame(TEXT, b"Hello"))
            assert b"\x81\x05Hello" == connection.read_exactly(7)
        else:
            assert 400 == response.status


def test_the_context_goes_on_from_message_to_message(server: Server) -> None:
    """A message may refer to the one before, for a client that can be told how far back."""
    offer = DEFLATE.replace(b"deflate", b"deflate; client_max_window_bits")
    with _compressing(server, offer) as websocket:
        answer = websocket.response.header(b"sec-websocket-extensions") or b""
        bits = int(answer.partition(b"client_max_window_bits=")[2].partition(b";")[0] or 15)
        compressor = zlib.compressobj(wbits=-bits)
        text = bytes(range(32, 127)) * 3
        sizes = []
        for _ in range(5):
            payload = deflated(text, compressor)
            sizes.append(len(payload))
            websocket.send(frame(TEXT, payload, reserved=4))
            assert Frame(TEXT, text) == websocket.read_message()
        assert sizes[1] < sizes[0] // 2


# --- Limits ---


def test_a_message_beyond_the_limit_closes_with_1009(shared_server: StartServer) -> None:
    """Whole, in parts, announced, or after decompression."""
    options = {
        servers.OURS: ("--ws-max-size", "10000"),
        "uvicorn": ("--ws-max-size", "10000"),
        "hypercorn": ("--websocket-max-size", "10000"),
    }
    kind = servers.chosen_kind()
    if kind not in options:
        pytest.skip(f"{kind} has no such limit, or it is not known here")
    server = shared_server(*options[kind])
    part = frame(CONTINUATION, b"x" * 4000, is_final=False)
    with WebSocket(server.address) as websocket:
        websocket.send(frame(BINARY, b"x" * 10_000))
        assert Frame(BINARY, b"x" * 10_000) == websocket.read_message()
    for sent in (
        frame(BINARY, b"x" * 10_001),
        frame(TEXT, b"", length=1 << 40, wide=8),
        frame(BINARY, b"x", is_final=False) + part * 3,
    ):
        with WebSocket(server.address) as websocket:
            websocket.send(sent)
            frames = websocket.rest()
            assert frames[-1].code in TOO_LARGE if frames else True
    with _compressing(server) as websocket:
        websocket.send(cases_websocket.bomb(50_000_000))
        frames = websocket.rest()
        assert frames[-1].code in TOO_LARGE if frames else True
    assert server.answers()


def test_a_flood_of_pings_is_answered_or_refused(server: Server) -> None:
    """A client that does not read its pongs costs a bounded amount of memory."""
    before = server.rss_bytes()
    with WebSocket(server.address) as websocket:
        websocket.connection.socket.settimeout(0.5)
        pings = frame(PING, b"x" * 125) * 500
        try:
            for _ in range(32 * 1024 * 1024 // len(pings)):
                websocket.connection.send(pings)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        assert server.rss_bytes() - before < 16 << 20
    assert server.answers()


def test_a_reader_of_an_echo_that_does_not_read_is_not_read_from(server: Server) -> None:
    """The application waits in `send`: what is unsent is bounded."""
    before = server.rss_bytes()
    with WebSocket(server.address) as websocket:
        websocket.connection.socket.settimeout(0.5)
        message = frame(BINARY, bytes(60_000))
        try:
            for _ in range(1000):
                websocket.connection.send(message)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            pass
        assert server.rss_bytes() - before < 32 << 20
    assert server.answers()


# --- The application ---


@pytest.mark.parametrize("code", [1000, 1001, 1008, 3000, 4999])
def test_the_code_of_the_application_reaches_the_client(server: Server, code: int) -> None:
    """With its reason."""
    with WebSocket(server.address, b"/close?code=%d" % code) as websocket:
        closed = websocket.rest()[0]
        assert (code, b"as asked") == (closed.code, closed.payload[2:])


def test_an_application_that_raises_closes_with_1011(server: Server) -> None:
    """RFC 6455, 7.4.1: an unexpected condition."""
    with WebSocket(server.address, b"/raises") as websocket:
        frames = websocket.rest()
        assert [1011] == [it.code for it in frames]


def _n_left(server: Server, codes: frozenset[int]) -> int:
    """Return how many clients of `/code` have left with one of these codes."""
    request = b"GET /ws-codes HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    lines = final(exchange(server.address, request))[0].body.decode().splitlines()
    seen = dict(line.split() for line in lines)
    return sum(int(seen.get(str(code), 0)) for code in codes)


@pytest.mark.parametrize("code", [1001, 4321, 1005])
def test_the_application_hears_the_code_of_the_client(server: Server, code: int) -> None:
    """1005 stands for a close frame without one."""
    before = _n_left(server, frozenset({code}))
    with WebSocket(server.address, b"/code") as websocket:
        websocket.send(frame(CLOSE) if code == 1005 else close_frame(code))
        websocket.rest()
    wait_until(lambda: _n_left(server, frozenset({code})) == before + 1)


@pytest.mark.parametrize("how", ["end", "reset"])
def test_the_application_hears_that_the_client_just_left(server: Server, how: str) -> None:
    """1006: there was no close frame."""
    # uvicorn says 1005, hypercorn 1000.
    codes = frozenset({1006} if server.is_ours else {1000, 1005, 1006})
    before = _n_left(server, codes)
    websocket = WebSocket(server.address, b"/code")
    if how == "reset":
        websocket.connection.reset()
    websocket.connection.socket.close()
    wait_until(lambda: _n_left(server, codes) == before + 1)


def test_messages_and_pings_are_answered_in_turn(server: Server) -> None:
    """Long ones and short ones; the pongs carry what the pings did."""
    with WebSocket(server.address) as websocket:
        for i in range(50):
            payload = b"%d" % i * (i * 97)
            websocket.send(frame(BINARY, payload), frame(PING, b"%d" % i))
            got = [websocket.read_message(), websocket.read_message()]
            assert {(BINARY, payload), (PONG, b"%d" % i)} == {(it.opcode, it.payload) for it in got}


def test_clients_that_leave_at_each_byte_of_a_frame_leave_nothing(server: Server) -> None:
    """Also within the handshake's answer."""
    sent = frame(TEXT, b"Hel", is_final=False) + frame(PING, b"x") + frame(CONTINUATION, b"lo")
    assert server.answers()
    before = server.n_descriptors()
    for n_bytes in range(len(sent) + 1):
        websocket = WebSocket(server.address)
        websocket.send(sent[:n_bytes])
        if n_bytes % 2:
            websocket.connection.reset()
        else:
            websocket.connection.socket.close()
    for _ in range(20):
        connection = Connection(server.address)
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + ASKS + VERSION + KEY + b"\r\n")
        connection.reset()
    wait_until(lambda: server.n_descriptors() <= before)
    assert server.answers()


def test_a_closed_websocket_is_closed_by_the_server(server: Server) -> None:
    """RFC 6455, 7.1.1: the server ends the connection first."""
    with WebSocket(server.address) as websocket:
        websocket.send(close_frame(1000))
        assert 1000 == websocket.read_frame().code
        with pytest.raises((Closed, ConnectionResetError)):
            websocket.read_frame()
