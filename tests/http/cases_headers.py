"""Headers: Host, names, values, line ends, folding (RFC 9112, sections 2.2, 3.2, 5; RFC 9110, 5 and 7.2)."""

from __future__ import annotations

from cases import ANSWERED, CLOSED, EITHER, EITHER_WAY, OPEN, REFUSED, Case

# fmt: off
HOST = (
    Case("missing", b"GET / HTTP/1.1\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("missing, with another header", b"GET / HTTP/1.1\r\nX: y\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("missing, with a body", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", REFUSED, CLOSED, "9112 3.2"),
    Case("twice, differing", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("twice, the same", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("twice, one empty", b"GET / HTTP/1.1\r\nHost: a\r\nHost:\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("twice in 1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", EITHER, CLOSED, "9112 3.2", REFUSED),
    Case("empty", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", EITHER, EITHER_WAY, "9112 3.2"),
    Case("with a port", b"GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n", ANSWERED, OPEN, "9110 7.2"),
    Case("with an empty port", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", EITHER, EITHER_WAY, "3986 3.2.3"),
    Case("IPv4", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", ANSWERED, OPEN, "9110 7.2"),
    Case("IPv6", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", ANSWERED, OPEN, "9110 7.2"),
    Case("capitals and a dot last", b"GET / HTTP/1.1\r\nHost: A.Example.\r\n\r\n", ANSWERED, OPEN, "9110 7.2"),
    Case("underscore", b"GET / HTTP/1.1\r\nHost: a_b\r\n\r\n", ANSWERED, OPEN, "3986 3.2.2"),
    Case("percent-encoded", b"GET / HTTP/1.1\r\nHost: a%41\r\n\r\n", EITHER, EITHER_WAY, "3986 3.2.2"),
    Case("space within", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("slash", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("a URI", b"GET / HTTP/1.1\r\nHost: http://a/\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("user", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("question mark", b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("number sign", b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("backslash", b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("comma", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("quotes", b'GET / HTTP/1.1\r\nHost: "a"\r\n\r\n', REFUSED, CLOSED, "9112 3.2"),
    Case("less and greater", b"GET / HTTP/1.1\r\nHost: <a>\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("port that is no number", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("port out of range", b"GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", EITHER, EITHER_WAY, "3986 3.2.3"),
    Case("two ports", b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("IPv6 without brackets", b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("IPv6, bracket open", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("IPv6 and more", b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("NUL", b"GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n", REFUSED, CLOSED, "9110 5.5"),
    Case("tab within", b"GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("bytes above ASCII", b"GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n", REFUSED, CLOSED, "9112 3.2"),
    Case("space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", REFUSED, CLOSED, "9112 5.1"),
    Case("folded", b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", REFUSED, CLOSED, "9112 5.2"),
    Case("mixed case and a tab", b"GET / HTTP/1.1\r\nhoSt:\ta\r\nempty:\r\n\r\n", ANSWERED, OPEN, "9112 5"),
)

NAMES = (
    Case("all characters of a token", b"GET / HTTP/1.1\r\nHost: a\r\nA!#$%&'*+-.^_`|~09z: y\r\n\r\n", ANSWERED, OPEN, "9110 5.1"),
    Case("underscore", b"GET / HTTP/1.1\r\nHost: a\r\nX_Y: z\r\n\r\n", ANSWERED, OPEN, "9110 5.1"),
    Case("space before the colon", b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", REFUSED, CLOSED, "9112 5.1"),
    Case("tab before the colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\t: y\r\n\r\n", REFUSED, CLOSED, "9112 5.1"),
    Case("space within", b"GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n", EITHER, EITHER_WAY, "9110 5.1", REFUSED),
    Case("brackets", b"GET / HTTP/1.1\r\nHost: a\r\nX[]: y\r\n\r\n", EITHER, EITHER_WAY, "9110 5.1", REFUSED),
    Case("parentheses", b"GET / HTTP/1.1\r\nHost: a\r\n(x): y\r\n\r\n", EITHER, EITHER_WAY, "9110 5.1", REFUSED),
    Case("quotes", b'GET / HTTP/1.1\r\nHost: a\r\n"x": y\r\n\r\n', EITHER, EITHER_WAY, "9110 5.1", REFUSED),
    Case("slash", b"GET / HTTP/1.1\r\nHost: a\r\nX/Y: z\r\n\r\n", EITHER, EITHER_WAY, "9110 5.1", REFUSED),
    Case("empty", b"GET / HTTP/1.1\r\nHost: a\r\n: y\r\n\r\n", EITHER, EITHER_WAY, "9110 5.1", REFUSED),
    Case("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", EITHER, EITHER_WAY, "9112 5", REFUSED),
    Case("NUL", b"GET / HTTP/1.1\r\nHost: a\r\nX\0Y: z\r\n\r\n", EITHER, EITHER_WAY, "9110 5.1", REFUSED),
    Case("control character", b"GET / HTTP/1.1\r\nHost: a\r\nX\x01Y: z\r\n\r\n", EITHER, EITHER_WAY, "9110 5.1", REFUSED),
    Case("DEL", b"GET / HTTP/1.1\r\nHost: a\r\nX\x7fY: z\r\n\r\n", EITHER, EITHER_WAY, "9110 5.1", REFUSED),
    Case("byte above ASCII", b"GET / HTTP/1.1\r\nHost: a\r\nX\xc4: y\r\n\r\n", EITHER, EITHER_WAY, "9110 5.1", REFUSED),
    Case("bare CR", b"GET / HTTP/1.1\r\nHost: a\r\nX\rY: z\r\n\r\n", EITHER, EITHER_WAY, "9112 2.2", REFUSED),
    Case("a second request line", b"GET / HTTP/1.1\r\nHost: a\r\nGET /x HTTP/1.1\r\n\r\n", EITHER, EITHER_WAY, "9112 5", REFUSED),
)

VALUES = (
    Case("empty", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", ANSWERED, OPEN, "9110 5.5"),
    Case("spaces alone", b"GET / HTTP/1.1\r\nHost: a\r\nX: \t \r\n\r\n", ANSWERED, OPEN, "9110 5.5"),
    Case("no space after the colon", b"GET / HTTP/1.1\r\nHost:a\r\nX:y\r\n\r\n", ANSWERED, OPEN, "9112 5"),
    Case("spaces around", b"GET / HTTP/1.1\r\nHost: \t a \t\r\nX:   y   \r\n\r\n", ANSWERED, OPEN, "9112 5"),
    Case("tab within", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\tz\r\n\r\n", ANSWERED, OPEN, "9110 5.5"),
    Case("colons", b"GET / HTTP/1.1\r\nHost: a\r\nX: :y: z:\r\n\r\n", ANSWERED, OPEN, "9110 5.5"),
    Case("bytes above ASCII", b"GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa4\xff\r\n\r\n", ANSWERED, OPEN, "9110 5.5"),
    Case("fifty of one name", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 50 + b"\r\n", ANSWERED, OPEN, "9110 5.3"),
    Case("NUL", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n", EITHER, EITHER_WAY, "9110 5.5", REFUSED),
    Case("bare CR", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", EITHER, EITHER_WAY, "9112 2.2", REFUSED),
    Case("bare CR and a header", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rY: z\r\n\r\n", EITHER, EITHER_WAY, "9112 2.2", REFUSED),
    Case("BEL", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\x07z\r\n\r\n", EITHER, EITHER_WAY, "9110 5.5", REFUSED),
    Case("ESC", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\x1bz\r\n\r\n", EITHER, EITHER_WAY, "9110 5.5", REFUSED),
    Case("vertical tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\x0bz\r\n\r\n", EITHER, EITHER_WAY, "9110 5.5", REFUSED),
    Case("DEL", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\x7fz\r\n\r\n", EITHER, EITHER_WAY, "9110 5.5", REFUSED),
)

LINE_ENDS = (
    Case("bare LF ends a header", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", EITHER, EITHER_WAY, "9112 2.2"),
    Case("bare LF ends the head", b"GET / HTTP/1.1\r\nHost: a\r\n\n", EITHER, EITHER_WAY, "9112 2.2"),
    Case("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", EITHER, EITHER_WAY, "9112 2.2"),
    Case("bare CR ends a header", b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", REFUSED, CLOSED, "9112 2.2"),
    Case("bare CR ends the head", b"GET / HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n", REFUSED, CLOSED, "9112 2.2"),
    Case("two CRs end a header", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n\r\n", EITHER, EITHER_WAY, "9112 2.2", REFUSED),
    Case("two CRs end the head", b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", EITHER, EITHER_WAY, "9112 2.2", REFUSED),
    Case("LF and CR", b"GET / HTTP/1.1\r\nHost: a\n\rX: y\r\n\r\n", REFUSED, CLOSED, "9112 2.2"),
)

FOLDING = (
    Case("by a space", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", EITHER, EITHER_WAY, "9112 5.2", REFUSED),
    Case("by a tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\tz\r\n\r\n", EITHER, EITHER_WAY, "9112 5.2", REFUSED),
    Case("twice", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n z\r\n\r\n", EITHER, EITHER_WAY, "9112 5.2", REFUSED),
    Case("after an empty value", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n z\r\n\r\n", EITHER, EITHER_WAY, "9112 5.2", REFUSED),
    Case("of nothing", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n \r\n\r\n", EITHER, EITHER_WAY, "9112 5.2", REFUSED),
    Case("after a bare LF", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\n z\r\n\r\n", EITHER, EITHER_WAY, "9112 5.2", REFUSED),
    Case("space before the first header", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", REFUSED, CLOSED, "9112 2.2"),
    Case("space before the first of two headers", b"GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n", EITHER, EITHER_WAY, "9112 2.2", REFUSED),
    Case("that hides a length", b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n Content-Length: 5\r\n\r\n", EITHER, EITHER_WAY, "9112 5.2", REFUSED),
    Case("of a length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 5\r\n\r\nhello", EITHER, EITHER_WAY, "9112 5.2", REFUSED, body=b"hello"),
    Case("of a transfer coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", EITHER, EITHER_WAY, "9112 5.2", REFUSED, body=b"hello"),
)
# fmt: on
