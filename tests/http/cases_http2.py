"""What follows frames of HTTP/2 (RFC 9113): each case is sent right after the settings, and a good request follows it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from http2_client import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Fields,
    block,
    data,
    headers,
    raw_frame,
    settings,
    window_update,
)

# What may follow. A connection error may come in place of a stream error: RFC 9113, 5.4.2 has no word against it, and
# a server may refuse a malformed request with a status: 8.1.1.
GOES_ON = frozenset({"goes on"})
STREAM_ERROR = frozenset({"stream error", "connection error"})
CONNECTION_ERROR = frozenset({"connection error"})
MALFORMED = STREAM_ERROR | {"400"}
ANSWERED = frozenset({"200"})


@dataclass(frozen=True)
class Http2Case:
    """One line: frames, of which the first request is on stream 1, what may follow, and where RFC 9113 says so."""

    name: str
    sent: bytes
    permitted: frozenset[str]
    section: str


def _without(*names: str) -> Fields:
    return [it for it in GET if it[0] not in names]


def _with(*more: tuple[str | bytes, str | bytes], base: Fields = GET) -> Fields:
    return [*base, *more]


def _replaced(name: str, value: str | bytes) -> Fields:
    return [(key, value if key == name else old) for key, old in GET]


def _request(fields: Fields) -> bytes:
    return headers(1, fields)


_OPEN = headers(1, POST, END_HEADERS)
_PRIORITY = struct.pack("!IB", 0, 15)

# fmt: off
FRAMES = (
    Http2Case("settings with unknown ones", settings((0xFF, 1), (0x7777, 2)), GOES_ON, "6.5.2"),
    Http2Case("settings on a stream", raw_frame(SETTINGS, 0, 1), CONNECTION_ERROR, "6.5"),
    Http2Case("settings of five bytes", raw_frame(SETTINGS, 0, 0, bytes(5)), CONNECTION_ERROR, "6.5"),
    Http2Case("acknowledgment with settings", raw_frame(SETTINGS, ACK, 0, bytes(6)), CONNECTION_ERROR, "6.5"),
    Http2Case("push that is neither on nor off", settings((2, 2)), CONNECTION_ERROR, "6.5.2"),
    Http2Case("window beyond 2^31 - 1", settings((4, 1 << 31)), CONNECTION_ERROR, "6.5.2"),
    Http2Case("frames that are too small", settings((5, 16_383)), CONNECTION_ERROR, "6.5.2"),
    Http2Case("frames that are too large", settings((5, 1 << 24)), CONNECTION_ERROR, "6.5.2"),
    Http2Case("ping", raw_frame(PING, 0, 0, b"12345678"), GOES_ON, "6.7"),
    Http2Case("answer to no ping", raw_frame(PING, ACK, 0, b"12345678"), GOES_ON, "6.7"),
    Http2Case("ping on a stream", raw_frame(PING, 0, 1, bytes(8)), CONNECTION_ERROR, "6.7"),
    Http2Case("ping of seven bytes", raw_frame(PING, 0, 0, bytes(7)), CONNECTION_ERROR, "6.7"),
    Http2Case("end on a stream", raw_frame(GOAWAY, 0, 1, bytes(8)), CONNECTION_ERROR, "6.8"),
    Http2Case("window of nothing", window_update(0, 0), CONNECTION_ERROR, "6.9"),
    Http2Case("window of nothing, of a stream", _OPEN + window_update(1, 0), STREAM_ERROR, "6.9"),
    Http2Case("window of three bytes", raw_frame(WINDOW_UPDATE, 0, 0, bytes(3)), CONNECTION_ERROR, "6.9"),
    Http2Case("window of a stream that is not there", window_update(1, 1), CONNECTION_ERROR, "5.1"),
    Http2Case("window that overflows", window_update(0, (1 << 31) - 1) * 2, CONNECTION_ERROR, "6.9.1"),
    Http2Case("window of a stream that overflows", _OPEN + window_update(1, (1 << 31) - 1) * 2, STREAM_ERROR, "6.9.1"),
    Http2Case("data on no stream", data(0, b"x"), CONNECTION_ERROR, "6.1"),
    Http2Case("data on a stream that is not there", data(1, b"x"), CONNECTION_ERROR, "5.1"),
    Http2Case("data after the end", _request(GET) + data(1, b"x"), STREAM_ERROR | ANSWERED, "5.1"),
    Http2Case("data with padding", _OPEN + raw_frame(DATA, END_STREAM | PADDED, 1, b"\x03hello\0\0\0"), ANSWERED, "6.1"),
    Http2Case("data with more padding than bytes", _OPEN + raw_frame(DATA, END_STREAM | PADDED, 1, b"\x06hello"), CONNECTION_ERROR, "6.1"),
    Http2Case("empty data", _OPEN + data(1, b"", 0) + data(1, b"hello", 0) + data(1, b""), ANSWERED, "6.1"),
    Http2Case("headers on no stream", headers(0, GET), CONNECTION_ERROR, "6.2"),
    Http2Case("headers on an even stream", headers(2, GET), CONNECTION_ERROR, "5.1.1"),
    Http2Case("headers on an earlier stream", headers(5, GET) + headers(3, GET), CONNECTION_ERROR, "5.1.1"),
    Http2Case("headers with padding", raw_frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, b"\x04" + block(GET) + bytes(4)), ANSWERED, "6.2"),
    Http2Case("headers with more padding than bytes", raw_frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, b"\xff" + block(GET)), CONNECTION_ERROR, "6.2"),
    Http2Case("headers with a priority", raw_frame(HEADERS, END_STREAM | END_HEADERS | PRIORITY_FLAG, 1, _PRIORITY + block(GET)), ANSWERED, "6.2"),
    Http2Case("headers that depend on themselves", raw_frame(HEADERS, END_STREAM | END_HEADERS | PRIORITY_FLAG, 1, struct.pack("!IB", 1, 15) + block(GET)), STREAM_ERROR | ANSWERED, "5.3.2"),
    Http2Case("headers, a ping, and their rest", raw_frame(HEADERS, END_STREAM, 1, block(GET)) + raw_frame(PING, 0, 0, bytes(8)), CONNECTION_ERROR, "6.2"),
    Http2Case("headers, data, and their rest", raw_frame(HEADERS, 0, 1, block(GET)) + data(1, b"x"), CONNECTION_ERROR, "6.2"),
    Http2Case("headers in three parts", raw_frame(HEADERS, END_STREAM, 1, block(GET)[:9]) + raw_frame(CONTINUATION, 0, 1, block(GET)[9:12]) + raw_frame(CONTINUATION, END_HEADERS, 1, block(GET)[12:]), ANSWERED, "6.10"),
    Http2Case("continuation of nothing", raw_frame(CONTINUATION, END_HEADERS, 1, block(GET)), CONNECTION_ERROR, "6.10"),
    Http2Case("continuation after the end of headers", _OPEN + raw_frame(CONTINUATION, END_HEADERS, 1, block(GET)), CONNECTION_ERROR, "6.10"),
    Http2Case("continuation on another stream", raw_frame(HEADERS, END_STREAM, 1, block(GET)[:9]) + raw_frame(CONTINUATION, END_HEADERS, 3, block(GET)[9:]), CONNECTION_ERROR, "6.10"),
    Http2Case("push by a client", raw_frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack("!I", 2) + block(GET)), CONNECTION_ERROR, "8.4"),
    Http2Case("reset of a stream that is not there", raw_frame(RST_STREAM, 0, 1, struct.pack("!I", 8)), CONNECTION_ERROR, "6.4"),
    Http2Case("reset of no stream", raw_frame(RST_STREAM, 0, 0, struct.pack("!I", 8)), CONNECTION_ERROR, "6.4"),
    Http2Case("reset of three bytes", _OPEN + raw_frame(RST_STREAM, 0, 1, bytes(3)), CONNECTION_ERROR, "6.4"),
    Http2Case("reset", _OPEN + raw_frame(RST_STREAM, 0, 1, struct.pack("!I", 8)), GOES_ON, "6.4"),
    Http2Case("priority", raw_frame(PRIORITY, 0, 1, _PRIORITY), GOES_ON, "6.3"),
    Http2Case("priority of no stream", raw_frame(PRIORITY, 0, 0, _PRIORITY), CONNECTION_ERROR, "6.3"),
    Http2Case("priority of four bytes", raw_frame(PRIORITY, 0, 1, bytes(4)), STREAM_ERROR | GOES_ON, "6.3"),
    Http2Case("a type that is unknown", raw_frame(0xEE, 0xFF, 1, b"x" * 100), GOES_ON, "4.1"),
    Http2Case("a type that is unknown within headers", raw_frame(HEADERS, END_STREAM, 1, block(GET)) + raw_frame(0xEE, 0, 1), CONNECTION_ERROR, "5.5"),
    Http2Case("flags that are unknown", raw_frame(PING, 0xF0, 0, bytes(8)), GOES_ON, "4.1"),
    Http2Case("the reserved bit", raw_frame(PING, 0, 1 << 31, bytes(8)), GOES_ON, "4.1"),
    Http2Case("a frame beyond the size", raw_frame(PING, 0, 0, bytes(16_385)), CONNECTION_ERROR, "4.2"),
    Http2Case("data beyond the size", _OPEN + data(1, bytes(16_385)), STREAM_ERROR, "4.2"),
    Http2Case("headers beyond the size", raw_frame(HEADERS, END_STREAM | END_HEADERS, 1, block([*GET, ("x", "y" * 17_000)])), CONNECTION_ERROR, "4.2"),
    Http2Case("index of no header", raw_frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\xff\x80\x01"), CONNECTION_ERROR, "4.3"),
    Http2Case("index zero", raw_frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x80"), CONNECTION_ERROR, "7541 6.1"),
    Http2Case("number that does not end", raw_frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\xff" * 50), CONNECTION_ERROR, "7541 5.1"),
    Http2Case("headers that are cut", raw_frame(HEADERS, END_STREAM | END_HEADERS, 1, block(GET)[:-3]), CONNECTION_ERROR, "4.3"),
    Http2Case("table size beyond the setting", raw_frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x3f\xe1\xff\x03" + block(GET)), CONNECTION_ERROR, "7541 4.2"),
    Http2Case("string whose padding is too long", raw_frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x00\x85\xf2\xb2\x4a\x84\xff\x01y"), STREAM_ERROR, "7541 5.2"),
)

REQUESTS = (
    Http2Case("GET", _request(GET), ANSWERED, "8.3.1"),
    Http2Case("POST", _OPEN + data(1, b"hello"), ANSWERED, "8.1"),
    Http2Case("POST with trailers", _OPEN + data(1, b"hello", 0) + headers(1, [("x-late", "yes")]), ANSWERED, "8.1"),
    Http2Case("trailers that do not end the stream", _OPEN + data(1, b"hello", 0) + headers(1, [("x-late", "yes")], END_HEADERS), MALFORMED, "8.1"),
    Http2Case("trailers with a pseudo header", _OPEN + data(1, b"hello", 0) + headers(1, [(":path", "/y")]), MALFORMED | ANSWERED, "8.3"),
    Http2Case("name in capitals", _request(_with(("X-Name", "y"))), MALFORMED, "8.2.1"),
    Http2Case("name with a space", _request(_with(("x y", "z"))), MALFORMED, "8.2.1"),
    Http2Case("name with a colon", _request(_with(("x:y", "z"))), MALFORMED, "8.2.1"),
    Http2Case("name with a control character", _request(_with(("x\x01", "z"))), MALFORMED, "8.2.1"),
    Http2Case("name above ASCII", _request(_with(("x\xe4", "z"))), MALFORMED, "8.2.1"),
    Http2Case("empty name", _request(_with(("", "z"))), MALFORMED, "8.2.1"),
    Http2Case("value with a CR", _request(_with(("x", "y\rz"))), MALFORMED, "8.2.1"),
    Http2Case("value with an LF", _request(_with(("x", "y\nz: a"))), MALFORMED, "8.2.1"),
    Http2Case("value with a NUL", _request(_with(("x", "y\0z"))), MALFORMED, "8.2.1"),
    Http2Case("value with a space first", _request(_with(("x", " y"))), MALFORMED | ANSWERED, "8.2.1"),
    Http2Case("connection", _request(_with(("connection", "close"))), MALFORMED, "8.2.2"),
    Http2Case("keep-alive", _request(_with(("keep-alive", "timeout=5"))), MALFORMED, "8.2.2"),
    Http2Case("proxy-connection", _request(_with(("proxy-connection", "keep-alive"))), MALFORMED, "8.2.2"),
    Http2Case("transfer-encoding", _request(_with(("transfer-encoding", "chunked"))), MALFORMED, "8.2.2"),
    Http2Case("upgrade", _request(_with(("upgrade", "h2c"))), MALFORMED, "8.2.2"),
    Http2Case("te: gzip", _request(_with(("te", "gzip"))), MALFORMED, "8.2.2"),
    Http2Case("te: trailers", _request(_with(("te", "trailers"))), ANSWERED, "8.2.2"),
    Http2Case("no method", _request(_without(":method")), MALFORMED, "8.3.1"),
    Http2Case("no scheme", _request(_without(":scheme")), MALFORMED, "8.3.1"),
    Http2Case("no path", _request(_without(":path")), MALFORMED, "8.3.1"),
    Http2Case("neither authority nor host", _request(_without(":authority")), MALFORMED | ANSWERED, "8.3.1"),
    Http2Case("host in place of the authority", _request([*_without(":authority"), ("host", "a")]), ANSWERED, "8.3.1"),
    Http2Case("another host than the authority", _request(_with(("host", "b"))), MALFORMED | ANSWERED, "8.3.1"),
    Http2Case("two hosts", _request(_with(("host", "a"), ("host", "b"))), MALFORMED, "9110 7.2"),
    Http2Case("user in the authority", _request(_replaced(":authority", "u:p@a")), MALFORMED, "8.3.1"),
    Http2Case("empty path", _request(_replaced(":path", "")), MALFORMED, "8.3.1"),
    Http2Case("path without a slash", _request(_replaced(":path", "x")), MALFORMED, "8.3.1"),
    Http2Case("path with a space", _request(_replaced(":path", "/x y")), MALFORMED, "8.3.1"),
    Http2Case("path with a line break", _request(_replaced(":path", "/x\r\ny: z")), MALFORMED, "8.2.1"),
    Http2Case("path with a NUL", _request(_replaced(":path", "/x\0")), MALFORMED, "8.2.1"),
    Http2Case("asterisk with OPTIONS", _request([(":method", "OPTIONS"), (":scheme", "http"), (":path", "*"), (":authority", "a")]), ANSWERED | {"204", "404", "405", "501", "400"}, "8.3.1"),
    Http2Case("asterisk with GET", _request(_replaced(":path", "*")), MALFORMED, "9110 7.1"),
    Http2Case("method with a space", _request(_replaced(":method", "GE T")), MALFORMED | {"405", "501"}, "8.3.1"),
    Http2Case("method with a line break", _request(_replaced(":method", "GET\r\nx: y")), MALFORMED | {"405", "501"}, "8.2.1"),
    Http2Case("two methods", _request([(":method", "GET"), *GET]), MALFORMED, "8.3.1"),
    Http2Case("two schemes", _request([(":scheme", "http"), *GET]), MALFORMED, "8.3.1"),
    Http2Case("two paths", _request([(":path", "/x"), *GET]), MALFORMED, "8.3.1"),
    Http2Case("two authorities", _request([(":authority", "a"), *GET]), MALFORMED, "8.3.1"),
    Http2Case("pseudo header after others", _request([*_without(":path"), ("x", "y"), (":path", "/x")]), MALFORMED, "8.3"),
    Http2Case("pseudo header that is unknown", _request([*GET, (":x", "y")]), MALFORMED, "8.3"),
    Http2Case("pseudo header of responses", _request([*GET, (":status", "200")]), MALFORMED, "8.3"),
    Http2Case("CONNECT", headers(1, [(":method", "CONNECT"), (":authority", "a:443")], END_HEADERS), STREAM_ERROR | {"400", "403", "404", "405", "501"}, "8.5"),
    Http2Case("CONNECT with a path", _request([(":method", "CONNECT"), *GET[1:]]), MALFORMED | {"403", "404", "405", "501"}, "8.5"),
    Http2Case("length that is right", headers(1, _with(("content-length", "5"), base=POST), END_HEADERS) + data(1, b"hello"), ANSWERED, "8.1.1"),
    Http2Case("length beyond the body", headers(1, _with(("content-length", "9"), base=POST), END_HEADERS) + data(1, b"hello"), MALFORMED, "8.1.1"),
    Http2Case("length below the body", headers(1, _with(("content-length", "3"), base=POST), END_HEADERS) + data(1, b"hello"), MALFORMED, "8.1.1"),
    Http2Case("length without a body", _request(_with(("content-length", "5"))), MALFORMED, "8.1.1"),
    Http2Case("length that is no number", headers(1, _with(("content-length", "x"), base=POST), END_HEADERS) + data(1, b"hello"), MALFORMED, "8.1.1"),
    Http2Case("two lengths", headers(1, _with(("content-length", "5"), ("content-length", "6"), base=POST), END_HEADERS) + data(1, b"hello"), MALFORMED, "8.1.1"),
    Http2Case("expectation", headers(1, _with(("expect", "100-continue"), base=POST), END_HEADERS) + data(1, b"hello"), ANSWERED, "9110 10.1.1"),
)
# fmt: on

# In place of the preface and the settings.
OPENINGS = {
    "garbage": b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings(),
    "cut preface and a request": b"PRI * HTTP/2.0\r\n\r\n" + headers(1, GET),
}
