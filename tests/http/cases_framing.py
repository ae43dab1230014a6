"""Lengths of bodies: Content-Length, Transfer-Encoding, both, chunks and trailers (RFC 9112, sections 6 and 7)."""

from __future__ import annotations

from cases import ANSWERED, CLOSED, EITHER, EITHER_WAY, NO_ANSWER, OPEN, REFUSED, Case

_CODING = frozenset({400, 501})
_TOO_LARGE = frozenset({400, 413})
_LIMITED = frozenset({200, 400, 413, 431})
_POST = b"POST /x HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
_CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
# A chunk that is malformed may be found when the response has begun, or the connection is closed at once.
_BAD_CHUNK = frozenset({400, NO_ANSWER})

# fmt: off
LENGTHS = (
    Case("a length", _POST + b"Content-Length: 5\r\n\r\nhello", ANSWERED, OPEN, "9112 6.2", body=b"hello"),
    Case("zero", _POST + b"Content-Length: 0\r\n\r\n", ANSWERED, OPEN, "9112 6.2", body=b""),
    Case("none", _POST + b"\r\n", frozenset({200, 411}), OPEN, "9112 6.3", ANSWERED, body=b""),
    Case("with GET", b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", EITHER, EITHER_WAY, "9110 9.3.1", ANSWERED, body=b"hello"),
    Case("leading zeros", _POST + b"Content-Length: 005\r\n\r\nhello", EITHER, EITHER_WAY, "9112 6.2", body=b"hello"),
    Case("spaces around", _POST + b"Content-Length: \t5 \t\r\n\r\nhello", ANSWERED, OPEN, "9110 5.5", body=b"hello"),
    Case("twice, the same", _POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", EITHER, EITHER_WAY, "9112 6.3", body=b"hello"),
    Case("twice, differing", _POST + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\nhello!!", REFUSED, CLOSED, "9112 6.3"),
    Case("twice, smaller last", _POST + b"Content-Length: 7\r\nContent-Length: 5\r\n\r\nhello!!", REFUSED, CLOSED, "9112 6.3"),
    Case("twice, other digits", _POST + b"Content-Length: 5\r\nContent-Length: 05\r\n\r\nhello", EITHER, EITHER_WAY, "9112 6.3", body=b"hello"),
    Case("twice, one empty", _POST + b"Content-Length: 5\r\nContent-Length:\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("a list, the same", _POST + b"Content-Length: 5, 5\r\n\r\nhello", EITHER, EITHER_WAY, "9112 6.3", body=b"hello"),
    Case("a list, differing", _POST + b"Content-Length: 5, 7\r\n\r\nhello!!", REFUSED, CLOSED, "9112 6.3"),
    Case("comma last", _POST + b"Content-Length: 5,\r\n\r\nhello", EITHER, EITHER_WAY, "9112 6.3", REFUSED, body=b"hello"),
    Case("empty", _POST + b"Content-Length:\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("negative", _POST + b"Content-Length: -5\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("negative zero", _POST + b"Content-Length: -0\r\n\r\n", REFUSED, CLOSED, "9112 6.3"),
    Case("negative and long", _POST + b"Content-Length: -123456789123456789123456789\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("plus sign", _POST + b"Content-Length: +5\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("hexadecimal", _POST + b"Content-Length: 0x5\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("hexadecimal digits", _POST + b"Content-Length: a\r\n\r\nhellohello", REFUSED, CLOSED, "9112 6.3"),
    Case("words", _POST + b"Content-Length: five\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("a fraction", _POST + b"Content-Length: 5.0\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("an exponent", _POST + b"Content-Length: 5e0\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("an underscore", _POST + b"Content-Length: 0_5\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("two numbers", _POST + b"Content-Length: 5 5\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("a semicolon", _POST + b"Content-Length: 5;\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("quotes", _POST + b'Content-Length: "5"\r\n\r\nhello', REFUSED, CLOSED, "9112 6.3"),
    Case("digits beyond ASCII", _POST + b"Content-Length: \xef\xbc\x95\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("vertical tab", _POST + b"Content-Length: \x0b5\r\n\r\nhello", REFUSED, CLOSED, "9112 6.3"),
    Case("NUL", _POST + b"Content-Length: 5\0\r\n\r\nhello", REFUSED, CLOSED, "9110 5.5"),
    Case("2^64 + 5", _POST + b"Content-Length: 18446744073709551621\r\n\r\nhello", _TOO_LARGE, CLOSED, "9112 6.3"),
    Case("2^64 - 1", _POST + b"Content-Length: 18446744073709551615\r\n\r\nhello", _TOO_LARGE | {431}, CLOSED, "9112 6.3"),
    Case("of 400 digits", _POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\nhello", _TOO_LARGE, CLOSED, "9112 6.3"),
    Case("space before the colon", _POST + b"Content-Length : 5\r\n\r\nhello", REFUSED, CLOSED, "9112 5.1"),
    Case("of another header", _POST + b"X-Content-Length: 500\r\nContent-Length: 5\r\n\r\nhello", ANSWERED, OPEN, "9112 6.2", body=b"hello"),
)

CODINGS = (
    Case("chunked", _POST + b"Transfer-Encoding: chunked\r\n\r\n" + _CHUNKS, ANSWERED, OPEN, "9112 7.1", body=b"hello"),
    Case("chunked in capitals", _POST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n" + _CHUNKS, ANSWERED, OPEN, "9112 7", body=b"hello"),
    Case("chunked after a tab", _POST + b"Transfer-Encoding:\tchunked\r\n\r\n" + _CHUNKS, ANSWERED, OPEN, "9112 5", body=b"hello"),
    Case("chunked with spaces around", _POST + b"Transfer-Encoding:   chunked  \r\n\r\n" + _CHUNKS, ANSWERED, OPEN, "9112 5", body=b"hello"),
    Case("chunked with GET", b"GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER, EITHER_WAY, "9110 9.3.1", ANSWERED, body=b"hello"),
    Case("chunked twice, in a list", _POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.1"),
    Case("chunked twice, in two lines", _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.1"),
    Case("gzip, chunked", _POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.1"),
    Case("gzip and chunked, in two lines", _POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.1"),
    Case("chunked not last", _POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.3"),
    Case("chunked not last, in two lines", _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.3"),
    Case("identity", _POST + b"Transfer-Encoding: identity\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 7"),
    Case("identity, chunked", _POST + b"Transfer-Encoding: identity, chunked\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 7"),
    Case("chunked and identity, in two lines", _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.3"),
    Case("unknown", _POST + b"Transfer-Encoding: nonsense\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.1"),
    Case("unknown and chunked, in two lines", _POST + b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.1"),
    Case("xchunked", _POST + b"Transfer-Encoding: xchunked\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.1"),
    Case("chunkedx", _POST + b"Transfer-Encoding: chunkedx\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.1"),
    Case("x chunked", _POST + b"Transfer-Encoding: x chunked\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.1"),
    Case("chunked with a parameter", _POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 7"),
    Case("chunked in quotes", _POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + _CHUNKS, _CODING, CLOSED, "9112 7"),
    Case("chunked in single quotes", _POST + b"Transfer-Encoding: 'chunked'\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 7"),
    Case("chunked after a vertical tab", _POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9110 5.5"),
    Case("chunked and a NUL", _POST + b"Transfer-Encoding: chunked\0\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9110 5.5"),
    Case("chunked and a bare CR", _POST + b"Transfer-Encoding: chunked\rx\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 2.2"),
    Case("comma first", _POST + b"Transfer-Encoding: , chunked\r\n\r\n" + _CHUNKS, EITHER | {501}, EITHER_WAY, "9110 5.6.1", body=b"hello"),
    Case("comma last", _POST + b"Transfer-Encoding: chunked,\r\n\r\n" + _CHUNKS, EITHER | {501}, EITHER_WAY, "9110 5.6.1", body=b"hello"),
    Case("empty", _POST + b"Transfer-Encoding:\r\n\r\n" + _CHUNKS, _CODING, CLOSED, "9112 6.1"),
    Case("empty and chunked, in two lines", _POST + b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER | {501}, EITHER_WAY, "9110 5.6.1", body=b"hello"),
    Case("space before the colon", _POST + b"Transfer-Encoding : chunked\r\n\r\n" + _CHUNKS, REFUSED, CLOSED, "9112 5.1"),
    Case("byte in the name", _POST + b"Transfer-Encoding\xff: chunked\r\nContent-Length: 15\r\n\r\n" + _CHUNKS, EITHER, EITHER_WAY, "9110 5.1", REFUSED, body=_CHUNKS),
    Case("underscore in the name", _POST + b"Transfer_Encoding: chunked\r\nContent-Length: 15\r\n\r\n" + _CHUNKS, ANSWERED, OPEN, "9110 5.1", body=_CHUNKS),
    Case("in 1.0", b"POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", REFUSED),
    Case("in 1.0 that keeps the connection", b"POST /x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", REFUSED),
    Case("in 1.0 with a length", b"POST /x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", REFUSED),
)

BOTH = (
    Case("length, then chunked", _POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", body=b"hello"),
    Case("chunked, then length", _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", body=b"hello"),
    Case("the right length, then chunked", _POST + b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", body=b"hello"),
    Case("names in mixed case", _POST + b"content-LengtH: 5\r\nTransFer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", body=b"hello"),
    Case("zero, then chunked", _POST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", body=b"hello"),
    Case("length, then identity", _POST + b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n\r\nhello", _CODING, CLOSED, "9112 6.3"),
    Case("length, then unknown", _POST + b"Content-Length: 5\r\nTransfer-Encoding: x\r\n\r\nhello", _CODING, CLOSED, "9112 6.3"),
    Case("invalid length, then chunked", _POST + b"Content-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", REFUSED, body=b"hello"),
    Case("chunked, then invalid length", _POST + b"Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", body=b"hello"),
    Case("two lengths, then chunked", _POST + b"Content-Length: 5\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n" + _CHUNKS, EITHER, CLOSED, "9112 6.1", body=b"hello"),
)

CHUNKS = (
    Case("two", _CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", ANSWERED, OPEN, "9112 7.1", body=b"hello"),
    Case("none", _CHUNKED + b"0\r\n\r\n", ANSWERED, OPEN, "9112 7.1", body=b""),
    Case("digits in capitals", _CHUNKED + b"C\r\nHellO world1\r\n0\r\n\r\n", ANSWERED, OPEN, "9112 7.1", body=b"HellO world1"),
    Case("digits in lower case", _CHUNKED + b"c\r\nHellO world1\r\n0\r\n\r\n", ANSWERED, OPEN, "9112 7.1", body=b"HellO world1"),
    Case("CRLF in the data", _CHUNKED + b"6\r\n\r\n0\r\n\r\r\n0\r\n\r\n", ANSWERED, OPEN, "9112 7.1", body=b"\r\n0\r\n\r"),
    Case("leading zeros", _CHUNKED + b"005\r\nhello\r\n000\r\n\r\n", EITHER, EITHER_WAY, "9112 7.1", body=b"hello"),
    Case("hundred leading zeros", _CHUNKED + b"0" * 100 + b"5\r\nhello\r\n0\r\n\r\n", EITHER | {413}, EITHER_WAY, "9112 7.1", body=b"hello"),
    Case("no size", _CHUNKED + b"\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("a letter beyond f", _CHUNKED + b"g\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("digit, then a letter", _CHUNKED + b"5z\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("0x", _CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("negative", _CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("plus sign", _CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("underscore", _CHUNKED + b"0_5\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("space before the size", _CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("space after the size", _CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n", _BAD_CHUNK | {200}, EITHER_WAY, "9112 7.1.1", body=b"hello"),
    Case("tab after the size", _CHUNKED + b"5\t\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK | {200}, EITHER_WAY, "9112 7.1.1", body=b"hello"),
    Case("two sizes", _CHUNKED + b"5 5\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("NUL after the size", _CHUNKED + b"5\0\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("2^64 + 5", _CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK | {413}, CLOSED, "9112 7.1", _TOO_LARGE),
    Case("of 40 digits", _CHUNKED + b"f" * 40 + b"\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK | {413}, CLOSED, "9112 7.1", _TOO_LARGE),
    Case("bare LF after the size", _CHUNKED + b"5\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("bare CR after the size", _CHUNKED + b"5\rhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("two CRs after the size", _CHUNKED + b"5\r\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("nothing after the data", _CHUNKED + b"5\r\nhello0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("bare LF after the data", _CHUNKED + b"5\r\nhello\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("bare CR after the data", _CHUNKED + b"5\r\nhello\r0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("two other bytes after the data", _CHUNKED + b"5\r\nhelloXX0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("more data than the size", _CHUNKED + b"4\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("bare LF after the last size", _CHUNKED + b"5\r\nhello\r\n0\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("bare LF ends the body", _CHUNKED + b"5\r\nhello\r\n0\r\n\n", _BAD_CHUNK | {200}, EITHER_WAY, "9112 2.2", REFUSED, body=b"hello"),
)

EXTENSIONS = (
    Case("name and value", _CHUNKED + b"5;a=b\r\nhello\r\n0;c=d\r\n\r\n", ANSWERED, OPEN, "9112 7.1.1", body=b"hello"),
    Case("name alone", _CHUNKED + b"5;a\r\nhello\r\n0\r\n\r\n", ANSWERED, OPEN, "9112 7.1.1", body=b"hello"),
    Case("two", _CHUNKED + b"5;a=b;c=d\r\nhello\r\n0\r\n\r\n", ANSWERED, OPEN, "9112 7.1.1", body=b"hello"),
    Case("value in quotes", _CHUNKED + b'5;a="b;c"\r\nhello\r\n0\r\n\r\n', ANSWERED, OPEN, "9112 7.1.1", body=b"hello"),
    Case("spaces around", _CHUNKED + b"5 ; a = b\r\nhello\r\n0\r\n\r\n", EITHER, EITHER_WAY, "9112 7.1.1", body=b"hello"),
    Case("nothing after the semicolon", _CHUNKED + b"5;\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK | {200}, EITHER_WAY, "9112 7.1.1", body=b"hello"),
    Case("bare LF within", _CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1.1", REFUSED),
    Case("bare LF ends it", _CHUNKED + b"5;a\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1.1", REFUSED),
    Case("bare CR within", _CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1.1", REFUSED),
    Case("NUL", _CHUNKED + b"5;a\0\r\nhello\r\n0\r\n\r\n", _BAD_CHUNK | {200}, EITHER_WAY, "9112 7.1.1", body=b"hello"),
    Case("of 200 bytes", _CHUNKED + b"5;a=" + b"b" * 200 + b"\r\nhello\r\n0\r\n\r\n", _LIMITED, EITHER_WAY, "9112 7.1.1", ANSWERED, body=b"hello"),
    Case("of 20,000 bytes", _CHUNKED + b"5;a=" + b"b" * 20_000 + b"\r\nhello\r\n0\r\n\r\n", _LIMITED, EITHER_WAY, "9112 7.1.1", REFUSED | {413, 431}, body=b"hello"),
    Case("of 200 bytes for each of 200 bytes", _CHUNKED + (b"1;a=" + b"b" * 200 + b"\r\nx\r\n") * 200 + b"0\r\n\r\n", _LIMITED, EITHER_WAY, "9112 7.1.1", REFUSED | {413, 431}, body=b"x" * 200),
)

TRAILERS = (
    Case("one", _CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", ANSWERED, OPEN, "9112 7.1.2", body=b"hello"),
    Case("announced", _POST + b"Trailer: X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", ANSWERED, OPEN, "9110 6.6.2", body=b"hello"),
    Case("a length", _CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 500\r\n\r\n", EITHER, EITHER_WAY, "9110 6.5.1", body=b"hello"),
    Case("a transfer coding", _CHUNKED + b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", EITHER, EITHER_WAY, "9110 6.5.1", body=b"hello"),
    Case("a host", _CHUNKED + b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n", EITHER, EITHER_WAY, "9110 6.5.1", body=b"hello"),
    Case("two, the first with a bare LF", _CHUNKED + b"5\r\nhello\r\n0\r\nX: y\nY: z\r\n\r\n", _BAD_CHUNK | {200}, EITHER_WAY, "9112 2.2", REFUSED, body=b"hello"),
    Case("no colon", _CHUNKED + b"5\r\nhello\r\n0\r\nX\r\n\r\n", EITHER, EITHER_WAY, "9112 7.1.2", body=b"hello"),
    Case("space before the colon", _CHUNKED + b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", EITHER, EITHER_WAY, "9112 7.1.2", body=b"hello"),
    Case("folded", _CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n", EITHER, EITHER_WAY, "9112 7.1.2", body=b"hello"),
    Case("NUL", _CHUNKED + b"5\r\nhello\r\n0\r\nX: y\0\r\n\r\n", EITHER, EITHER_WAY, "9110 5.5", body=b"hello"),
    Case("bare LF", _CHUNKED + b"5\r\nhello\r\n0\r\nX: y\n\r\n", _BAD_CHUNK | {200}, EITHER_WAY, "9112 2.2", REFUSED, body=b"hello"),
    Case("a thousand", _CHUNKED + b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 1000 + b"\r\n", _LIMITED, EITHER_WAY, "9112 7.1.2", REFUSED | {413, 431}, body=b"hello"),
    Case("of 100,000 bytes", _CHUNKED + b"5\r\nhello\r\n0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", _LIMITED, EITHER_WAY, "9112 7.1.2", REFUSED | {413, 431}, body=b"hello"),
)

_INNER = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

# Each hides a request in what one of two readings takes for the body: it must never be answered, or the connection is
# closed after the first answer. `EITHER_WAY` is stricter than it looks: only the probe may be answered besides.
SMUGGLING = (
    Case("length covers it, chunked ends before", _POST + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(_INNER)) + _INNER, EITHER, CLOSED, "9112 11.2"),
    Case("chunk covers it, length ends before", _POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(_INNER) + _INNER + b"\r\n0\r\n\r\n", EITHER, CLOSED, "9112 11.2", body=_INNER),
    Case("coding with a space before the colon", _POST + b"Content-Length: %d\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" % (5 + len(_INNER)) + _INNER, REFUSED, CLOSED, "9112 5.1"),
    Case("coding after a bare CR", _POST + b"Content-Length: %d\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(_INNER)) + _INNER, EITHER, EITHER_WAY, "9112 2.2", REFUSED),
    Case("coding after a bare LF", _POST + b"Content-Length: %d\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(_INNER)) + _INNER, EITHER, CLOSED, "9112 2.2"),
    Case("coding in a folded line", _POST + b"Content-Length: %d\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(_INNER)) + _INNER, EITHER, EITHER_WAY, "9112 5.2", REFUSED),
    Case("coding that is unknown", _POST + b"Content-Length: %d\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" % (5 + len(_INNER)) + _INNER, _CODING, CLOSED, "9112 6.3"),
    Case("chunked, then a coding that is unknown", _POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n%x\r\n" % len(_INNER) + _INNER + b"\r\n0\r\n\r\n", _CODING, CLOSED, "9112 6.3"),
    Case("two lengths", _POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(_INNER) + _INNER, REFUSED, CLOSED, "9112 6.3"),
    Case("length with a plus sign", _POST + b"Content-Length: +%d\r\n\r\n" % len(_INNER) + _INNER, REFUSED, CLOSED, "9112 6.3"),
    Case("length with a byte in its name", _POST + b"Content-Length\x80: %d\r\nContent-Length: %d\r\n\r\n" % (3, len(_INNER)) + _INNER, EITHER, EITHER_WAY, "9110 5.1", REFUSED, body=_INNER),
    Case("GET with a length", b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(_INNER) + _INNER, EITHER, EITHER_WAY, "9110 9.3.1", ANSWERED, body=_INNER),
    Case("HEAD with a length", b"HEAD /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(_INNER) + _INNER, EITHER, EITHER_WAY, "9110 9.3.2", ANSWERED),
    Case("chunk size that overflows 64 bits", _CHUNKED + b"10000000000000000\r\n\r\n" + _INNER, _BAD_CHUNK | {413}, CLOSED, "9112 7.1", _TOO_LARGE),
    Case("chunk extension with a bare LF", _CHUNKED + b"2;\nxx\r\n%x\r\n0\r\n\r\n" % (4 + len(_INNER)) + _INNER + b"0\r\n\r\n", _BAD_CHUNK, CLOSED, "9112 7.1.1", REFUSED),
    Case("chunk data that ends in two other bytes", _CHUNKED + b"1\r\nAXX0\r\n\r\n" + _INNER, _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("last chunk and a bare CR", _CHUNKED + b"0\r\n\rX" + _INNER, _BAD_CHUNK, CLOSED, "9112 7.1", REFUSED),
    Case("request in a trailer", _CHUNKED + b"0\r\nX: y\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", EITHER, EITHER_WAY, "9112 7.1.2"),
    Case("Expect and a length of zero", b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n", ANSWERED | {417}, EITHER_WAY, "9110 10.1.1"),
)
# fmt: on
