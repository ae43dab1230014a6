"""Parses requests of HTTP/1.1: their heads and bodies, and what is refused. It does no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

HEAD_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 64 * 1024
_REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")


class Refused(Exception):
    """A request is not served; the client is told why, and the connection ends."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Request:
    """One complete request."""

    method: str
    target: str
    is_version_1_1: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def parameters(self) -> dict[str, str]:
        """The query string, decoded; of a repeated name the last value counts."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow on the connection."""
        return self.is_version_1_1 and "close" not in self.headers.get("connection", "").lower()


def take_request(received: bytearray) -> Request | None:
    """Take the first request from what a client has sent; None if it is not complete yet.

    Raises:
        Refused: the request is too long, malformed, or of a kind that is not served.
    """
    head_end = received.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX + 4)
    if head_end < 0:
        if len(received) > HEAD_BYTES_MAX:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise Refused(status, f"the limit is {HEAD_BYTES_MAX} bytes")
        return None
    first, *lines = bytes(received[:head_end]).split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise Refused(HTTPStatus.BAD_REQUEST, "this is not a request of HTTP/1.1")
    headers = _headers(lines)
    end = head_end + 4 + _body_length(headers)
    if len(received) < end:
        return None
    body = bytes(received[head_end + 4 : end])
    del received[:end]
    method, target = match[1].decode(), match[2].decode("latin-1")
    return Request(method, target, match[3] == b"1", headers, body)


def _headers(lines: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{line!r} is not a header")
        name, value = match[1].decode().lower(), match[2].decode("latin-1")
        if name == "content-length" and headers.get(name, value) != value:
            raise Refused(HTTPStatus.BAD_REQUEST, "the body has two lengths")
        headers[name] = value
    return headers


def _body_length(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise Refused(HTTPStatus.NOT_IMPLEMENTED, "send the body with its length, not in chunks")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise Refused(HTTPStatus.BAD_REQUEST, f"{length!r} is not a length")
    # Python refuses to parse numbers of thousands of digits.
    if len(length) > 10 or int(length) > BODY_BYTES_MAX:
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        raise Refused(status, f"the limit is {BODY_BYTES_MAX} bytes")
    return int(length)
