"""A small HTTP/1.1 server: each request has a scope, which is cancelled when its client goes away.

A connection without a request costs no task. Requests of one connection (pipelined ones, too) are
answered one after the other. What a request means is its handler's business.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import threadlets

from .answer import Answer
from .connection import Connection
from .http import Request

# How many connections may wait to be accepted; without it, `create_server` would set 100.
BACKLOG = 4096
# When thousands of clients go at once, so many are cancelled per tick; others are served between.
_N_CANCELLED_AT_ONCE = 16
Handler = Callable[[Request, Answer], Awaitable[None]]


@dataclasses.dataclass
class Counts:
    """Counts of requests since the start; each that has begun ends in one of three ways."""

    begun: int = 0
    answered: int = 0
    abandoned: int = 0
    """Requests whose clients went away before their answers were complete."""
    failed: int = 0

    @property
    def open(self) -> int:
        return self.begun - self.answered - self.abandoned - self.failed


class Server:
    """Serves connections until the task that awaits `serve` is cancelled."""

    def __init__(self, handle: Handler, *, idle_s: float = 60.0, stall_s: float = 30.0) -> None:
        self.counts = Counts()
        self.connections: set[Connection] = set()
        self.idle_s = idle_s
        self.stall_s = stall_s
        self._handle = handle
        self._gone: list[threadlets.Scope] = []

    async def serve(self, listener: socket.socket) -> None:
        """Serve all connections until cancelled; then cancel open requests, and abort connections."""
        loop = asyncio.get_running_loop()
        async with threadlets.Scope(name="server") as scope:
            serving = await loop.create_server(
                lambda: Connection(self, scope), sock=listener, backlog=BACKLOG
            )
            try:
                await loop.create_future()
            finally:
                serving.close()
                for connection in list(self.connections):
                    connection.abort()

    def client_has_gone(self, scope: threadlets.Scope) -> None:
        """Cancel the scope of a request, in one of the next ticks."""
        self._gone.append(scope)
        if len(self._gone) == 1:
            asyncio.get_running_loop().call_soon(self._cancel_some)

    def _cancel_some(self) -> None:
        for _ in range(min(len(self._gone), _N_CANCELLED_AT_ONCE)):
            # The latest first: a queued call must not start in the place of one that is cancelled.
            self._gone.pop().cancel("the client has gone")
        if self._gone:
            asyncio.get_running_loop().call_soon(self._cancel_some)

    async def answer(self, request: Request, connection: Connection, answer: Answer) -> None:
        """Answer one request in a scope of its own, which the connection cancels when it is lost."""
        counts = self.counts
        counts.begun += 1
        try:
            async with threadlets.Scope(name=f"{request.method} {request.target}") as scope:
                connection.scope = scope
                await self._handle(request, answer)
                answer.end()
        except Exception as error:
            counts.failed += 1
            await self._fail(request, answer, error)
        except BaseException:
            counts.abandoned += 1
            raise
        else:
            if answer.is_complete:
                counts.answered += 1
            else:
                counts.abandoned += 1
        finally:
            connection.scope = None

    async def _fail(self, request: Request, answer: Answer, error: Exception) -> None:
        message = f"answering {request.method} {request.target} failed"
        context = {"message": message, "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
        if answer.is_started:
            # Only the abrupt end of the connection shows that the answer is not complete.
            answer.break_off()
        else:
            await answer.whole(HTTPStatus.INTERNAL_SERVER_ERROR, b"something went wrong here\n")
