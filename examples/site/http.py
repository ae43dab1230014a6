"""What a plain ASGI site needs of HTTP: types, and responses that are sent in two messages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Response:
    """A complete response; `body` is sent in one piece."""

    status: int
    headers: Headers
    body: bytes = b""

    async def send_through(self, send: Send, *, with_body: bool = True) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body if with_body else b""})


def json_response(value: object, *, status: int = 200) -> Response:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    headers = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    return Response(status, headers, body)


def error_response(status: int, problem: str, *, extra_headers: Headers | None = None) -> Response:
    response = json_response({"error": problem}, status=status)
    return Response(status, response.headers + (extra_headers or []), response.body)


def header(scope: Scope, name: bytes) -> bytes | None:
    """Look up one request header; ASGI gives their names in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def query(scope: Scope) -> dict[str, str]:
    """Decode the query string; of a repeated name the last value counts."""
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
