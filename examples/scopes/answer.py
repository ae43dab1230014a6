"""The answer to one request: sent whole, or in pieces as they are made."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import Connection
    from .http import Request

_TEXT = "text/plain; charset=utf-8"


class Answer:
    """The answer that is sent to a client; each method waits while the client has no room for more.

    Data for a client that has gone is dropped: the task that sends it is about to be cancelled.
    """

    def __init__(self, connection: Connection, request: Request | None) -> None:
        self.is_started = False
        self.is_complete = False
        self.keeps_alive = request is not None and request.keeps_alive
        self._has_body = request is None or request.method != "HEAD"
        self._is_chunked = False
        self._may_be_chunked = request is None or request.is_version_1_1
        self._connection = connection

    async def whole(
        self, status: HTTPStatus, body: bytes, content_type: str = _TEXT, *headers: str
    ) -> None:
        """Send the whole answer at once."""
        head = self._head(status, content_type, f"content-length: {len(body)}", *headers)
        self.is_started = True
        await self._write(head + body if self._has_body else head)
        self._complete()

    async def start(self, status: HTTPStatus, content_type: str) -> None:
        """Send the head; `send` sends the body, piece by piece, and `end` ends it."""
        self.is_started = True
        self._is_chunked = self._may_be_chunked and self._has_body
        # To a client of HTTP/1.0 the end of the connection is the end of the body.
        self.keeps_alive &= self._may_be_chunked
        headers = ("transfer-encoding: chunked",) if self._is_chunked else ()
        await self._write(self._head(status, content_type, *headers))

    async def send(self, piece: bytes) -> None:
        """Send a piece of the body."""
        assert self.is_started, "the head comes first"
        if piece and self._has_body:
            await self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece)

    def end(self) -> None:
        """End the body, if that has not been done."""
        assert self.is_started, "every request is answered"
        if not self.is_complete:
            if self._is_chunked:
                self._connection.write(b"0\r\n\r\n")
            self._complete()

    def break_off(self) -> None:
        """End the connection, so that the client does not take a part for the whole."""
        self._connection.abort()

    def _complete(self) -> None:
        self.is_complete = not self._connection.is_lost

    async def _write(self, data: bytes) -> None:
        if self._connection.is_lost:
            # The cancellation of the request arrives here.
            await asyncio.sleep(0)
            return
        self._connection.write(data)
        await self._connection.room()

    def _head(self, status: HTTPStatus, content_type: str, *headers: str) -> bytes:
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"content-type: {content_type}",
            *headers,
            *(() if self.keeps_alive else ("connection: close",)),
        ]
        return "\r\n".join((*lines, "", "")).encode("latin-1")
