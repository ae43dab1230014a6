"""One answer of a fixed size, as ASGI, RSGI and WSGI applications, and one that computes for a while."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

#: The sizes of answers, in bytes, by the names that applications and files have.
SIZES = {"1k": 1024, "80k": 80 * 1024}
#: How long a request of `asgi_computing` computes.
_COMPUTING_S = 0.0005

Send = Callable[[dict[str, Any]], Awaitable[None]] if TYPE_CHECKING else Any


def _asgi(size: int) -> Callable[[dict[str, Any], Any, Send], Awaitable[None]]:
    length = str(size).encode()
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/plain"), (b"content-length", length)],
    }
    body = {"type": "http.response.body", "body": b"x" * size}

    async def application(_scope: dict[str, Any], _receive: Any, send: Send) -> None:
        await send(start)
        await send(body)

    return application


def _rsgi(size: int) -> Callable[[Any, Any], Awaitable[None]]:
    headers = [("content-type", "text/plain"), ("content-length", str(size))]
    body = b"x" * size

    async def application(_scope: Any, protocol: Any) -> None:
        protocol.response_bytes(200, headers, body)

    return application


def _wsgi(size: int) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(size))]
    body = [b"x" * size]

    def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", headers)
        return body

    return application


asgi_1k, asgi_80k = map(_asgi, SIZES.values())
rsgi_1k, rsgi_80k = map(_rsgi, SIZES.values())
wsgi_1k, wsgi_80k = map(_wsgi, SIZES.values())


async def asgi_computing(scope: dict[str, Any], receive: Any, send: Send) -> None:
    """Compute, so that a request costs the server far more than the load."""
    until = time.thread_time() + _COMPUTING_S
    while time.thread_time() < until:
        pass
    await asgi_1k(scope, receive, send)
