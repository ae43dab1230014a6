"""The ASGI application behind the tests of the protocol: it says what it saw, and misbehaves where a path asks for it.

The answer to a path that is not below is a line with method, target and length of the body, and then the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# Requests that are in the application, and those that it saw leave before they were answered.
_counts = {"in": 0, "left": 0}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request, one websocket, or the lifespan."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    if scope["type"] == "websocket":
        await _WEBSOCKETS.get(scope["path"], _ws_echo)(scope, receive, send)
        return
    _counts["in"] += 1
    try:
        await _PATHS.get(scope["path"], _echo)(scope, receive, send)
    finally:
        _counts["in"] -= 1


async def _answer(
    send: Send, body: bytes, *, status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    await _start(send, status, (b"content-length", b"%d" % len(body)), *headers)
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def _body(receive: Receive) -> bytes | None:
    """Return the body of a request, or None if the client left within it."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            _counts["left"] += 1
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _number(scope: Scope, name: str, default: float) -> float:
    values = parse_qs(scope["query_string"].decode("latin-1")).get(name)
    return float(values[0]) if values else default


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await _body(receive)
    if body is None:
        return
    target = scope.get("raw_path") or scope["path"].encode()
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    line = b"%s %s %d\n" % (scope["method"].encode("latin-1"), target, len(body))
    await _answer(send, line + body)


async def _headers(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the headers as the application sees them."""
    await _body(receive)
    await _answer(send, b"".join(b"%s: %s\n" % (key, value) for key, value in scope["headers"]))


async def _counted(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the number of other requests that are in the application, and of those whose client left."""
    await _answer(send, b"%d %d" % (_counts["in"] - 1, _counts["left"]))


async def _early(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a look at the body."""
    await _answer(send, b"early")


async def _slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `?seconds` after the whole of the request."""
    await _body(receive)
    await asyncio.sleep(_number(scope, "seconds", 0.3))
    await _answer(send, b"slow")


async def _until_left(scope: Scope, receive: Receive, send: Send) -> None:
    """Wait for the client to leave."""
    while (await receive())["type"] != "http.disconnect":
        pass
    _counts["left"] += 1


async def _deaf(scope: Scope, receive: Receive, send: Send) -> None:
    """Read nothing of the body for a long time."""
    await asyncio.sleep(_number(scope, "seconds", 600))
    await _answer(send, b"deaf")


async def _large(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with `?bytes` bytes, in parts of 64 KiB, of known length."""
    n_bytes = int(_number(scope, "bytes", 1 << 20))
    await _start(send, 200, (b"content-length", b"%d" % n_bytes))
    while n_bytes > 0:
        part = b"x" * min(n_bytes, 65536)
        n_bytes -= len(part)
        await send({"type": "http.response.body", "body": part, "more_body": n_bytes > 0})


async def _whole(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with `?bytes` bytes in one piece, without a look at the body."""
    await _answer(send, b"x" * int(_number(scope, "bytes", 1 << 20)))


async def _parts(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in three parts of unknown length, after the whole of the request."""
    await _body(receive)
    await _start(send, 200)
    for part in (b"one ", b"two ", b"three"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


async def _without_content(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 204, or `?status`, with a body that must not go out."""
    await _answer(send, b"a body that is not allowed", status=int(_number(scope, "status", 204)))


async def _too_short(scope: Scope, receive: Receive, send: Send) -> None:
    """Promise more than comes."""
    await _start(send, 200, (b"content-length", b"10"))
    await send({"type": "http.response.body", "body": b"short"})


async def _too_long(scope: Scope, receive: Receive, send: Send) -> None:
    """Send more than was promised."""
    await _start(send, 200, (b"content-length", b"5"))
    await send({"type": "http.response.body", "body": b"longer HTTP/1.1 200 OK\r\n\r\n"})


async def _splitting(scope: Scope, receive: Receive, send: Send) -> None:
    """Put a line break into a header."""
    await _answer(send, b"", headers=((b"x-split", b"a\r\nx-smuggled: yes"),))


async def _splitting_name(scope: Scope, receive: Receive, send: Send) -> None:
    """Put a line break into the name of a header."""
    await _answer(send, b"", headers=((b"x-split: a\r\nx-smuggled", b"yes"),))


async def _both_lengths(scope: Scope, receive: Receive, send: Send) -> None:
    """Give a length and ask for chunks."""
    await _answer(send, b"both", headers=((b"transfer-encoding", b"chunked"),))


async def _raises(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail before the response."""
    raise RuntimeError("on purpose, before the response")


async def _raises_within(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail within the response."""
    await _start(send, 200)
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    raise RuntimeError("on purpose, within the response")


async def _no_answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Return without a response."""


async def _ws_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send back what comes, until the client closes."""
    assert "websocket.connect" == (await receive())["type"]
    offered = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


async def _ws_refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Do not accept."""
    assert "websocket.connect" == (await receive())["type"]
    await send({"type": "websocket.close", "code": 1000})


async def _ws_close(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept, and close at once with `?code`."""
    assert "websocket.connect" == (await receive())["type"]
    await send({"type": "websocket.accept"})
    code = int(_number(scope, "code", 1000))
    await send({"type": "websocket.close", "code": code, "reason": "as asked"})


async def _ws_code(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept, and count how the clients of this path leave: `/ws-codes` has the sums."""
    assert "websocket.connect" == (await receive())["type"]
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        pass
    code = message.get("code")
    _codes[code] = _codes.get(code, 0) + 1


async def _ws_raises(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept, and fail."""
    assert "websocket.connect" == (await receive())["type"]
    await send({"type": "websocket.accept"})
    raise RuntimeError("on purpose, in a websocket")


async def _seen_codes(scope: Scope, receive: Receive, send: Send) -> None:
    lines = [f"{code} {n_clients}" for code, n_clients in _codes.items()]
    await _answer(send, "\n".join(lines).encode())


_codes: dict[int | None, int] = {}

_PATHS = {
    "/headers": _headers,
    "/counts": _counted,
    "/early": _early,
    "/slow": _slow,
    "/until-left": _until_left,
    "/deaf": _deaf,
    "/large": _large,
    "/whole": _whole,
    "/parts": _parts,
    "/without-content": _without_content,
    "/too-short": _too_short,
    "/too-long": _too_long,
    "/splitting": _splitting,
    "/splitting-name": _splitting_name,
    "/both-lengths": _both_lengths,
    "/raises": _raises,
    "/raises-within": _raises_within,
    "/no-answer": _no_answer,
    "/ws-codes": _seen_codes,
}

_WEBSOCKETS = {
    "/refuse": _ws_refuse,
    "/close": _ws_close,
    "/code": _ws_code,
    "/raises": _ws_raises,
}


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer with `?bytes` bytes in one piece, without a look at the body, as WSGI does it."""
    body = b"x" * int(parse_qs(environ["QUERY_STRING"])["bytes"][0])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def plain_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as an application that has neither lifespan nor websockets."""
    if scope["type"] != "http":
        raise RuntimeError(f"{scope['type']} is not for this application")
    await _echo(scope, receive, send)
