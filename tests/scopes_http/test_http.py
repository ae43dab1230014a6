"""Which bytes are taken as a request, and which are refused."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from examples.scopes.http import BODY_BYTES_MAX, HEAD_BYTES_MAX, Refused, take_request


def test_requests_are_taken_one_by_one() -> None:
    """Bytes after a request stay in the buffer."""
    received = bytearray(
        b"POST /a%20b?c=d&e= HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyzGET / HTTP/1.0\r\n\r\nGET"
    )
    first, second = take_request(received), take_request(received)
    assert first is not None
    assert ("POST", "/a b", {"c": "d", "e": ""}) == (first.method, first.path, first.parameters)
    assert (b"xyz", True) == (first.body, first.keeps_alive)
    assert second is not None
    assert ("/", False) == (second.path, second.keeps_alive)
    assert take_request(received) is None
    assert b"GET" == received


def test_request_is_complete_with_its_body() -> None:
    """No request is taken before its last byte."""
    whole = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nab"
    for n in range(len(whole)):
        assert take_request(bytearray(whole[:n])) is None
    assert take_request(bytearray(whole)) is not None


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /\r\n\r\n", HTTPStatus.BAD_REQUEST),
        ("GET / HTTP/2.0\r\n\r\n", HTTPStatus.BAD_REQUEST),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n", HTTPStatus.BAD_REQUEST),
        ("GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", HTTPStatus.BAD_REQUEST),
        ("GET / HTTP/1.1\r\ncontent-length: \u00b2\r\n\r\n", HTTPStatus.BAD_REQUEST),
        (
            "GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            HTTPStatus.BAD_REQUEST,
        ),
        (
            f"GET / HTTP/1.1\r\ncontent-length: {BODY_BYTES_MAX + 1}\r\n\r\n",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ),
        (
            f"GET / HTTP/1.1\r\ncontent-length: {'9' * 5000}\r\n\r\n",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ),
        ("GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", HTTPStatus.NOT_IMPLEMENTED),
        ("GET " + "/" * HEAD_BYTES_MAX, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
    ],
)
def test_what_is_refused(head: str, status: HTTPStatus) -> None:
    """The status says why it is refused."""
    with pytest.raises(Refused) as refused:
        take_request(bytearray(head.encode("latin-1")))
    assert status is refused.value.status
