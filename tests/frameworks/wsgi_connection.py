"""The ASGI server and the client of a WSGI application, both played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from waiting import eventually

DEADLINE_S = 30.0
#: How a request can end early.
ENDINGS = ("disconnects", "send fails", "cancelled")
StartResponse = Callable[..., Any]
Environ = dict[str, Any]


class Connection:
    """One ASGI request whose client and server are the test; the client may leave at any time."""

    def __init__(self, app: Any, *bodies: bytes, is_whole: bool = True) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.send_error: Exception | None = None
        self.n_received = 0
        self.bodies: asyncio.Queue[bytes] = asyncio.Queue()
        for body in bodies or (b"",):
            self.bodies.put_nowait(body)
        self.is_whole = is_whole
        self._is_complete = False
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "http_version": "1.1",
            "headers": [],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        left = asyncio.ensure_future(self.left.wait())
        body = asyncio.ensure_future(self.bodies.get())
        waits = [left] if self._is_complete else [left, body]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if self.left.is_set():
                return {"type": "http.disconnect"}
            self.n_received += 1
            self._is_complete = self.is_whole and self.bodies.empty()
            more = not self._is_complete
            return {"type": "http.request", "body": body.result(), "more_body": more}
        finally:
            left.cancel()
            body.cancel()

    async def _send(self, message: dict[str, Any]) -> None:
        await self.may_send.wait()
        if self.send_error is not None:
            raise self.send_error
        if not self.left.is_set():
            # As in uvicorn: what is sent to a client that has left is dropped without an error.
            self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def has_sent(self) -> None:
        """Wait until a part of the answer has been sent."""
        await eventually(lambda: self.body)

    async def end(self, how: str) -> BaseException | None:
        """End the request in one of the ways, and return the exception that the server gets."""
        if how == "disconnects":
            self.left.set()
        elif how == "send fails":
            self.send_error = OSError("cannot send")
            self.may_send.set()
        else:
            self.task.cancel()
        await asyncio.wait([self.task])
        return None if self.task.cancelled() else self.task.exception()
