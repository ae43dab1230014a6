"""One connection of a client: answers its requests in order, and detects that the client has gone.

A reset is detected at once. The end of what a client sends (FIN) has two meanings: the client has
closed its socket, or only its half of the connection, and waits for the answer. TCP does not tell
them apart until something is sent. So the server sends "100 Continue", which HTTP allows any number
of times before an answer. A closed socket replies with a reset; a client that still reads skips it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import threadlets

from .answer import Answer
from .http import BODY_BYTES_MAX, HEAD_BYTES_MAX, Refused, Request, take_request

if TYPE_CHECKING:
    from .server import Server

# Enough for any one request; pipelined requests beyond it wait in the kernel.
_UNREAD_BYTES_MAX = HEAD_BYTES_MAX + BODY_BYTES_MAX
# Not 102: many clients know only 100, and take any other status for the answer.
_ARE_YOU_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"
_FIRST_PROBE_S = 0.02
_PROBES_S = 1.0


class Connection(asyncio.Protocol):
    """A client's connection, with the scope of the request that is being answered."""

    def __init__(self, server: Server, scope: threadlets.Scope) -> None:
        self.scope: threadlets.Scope | None = None
        self.is_lost = False
        self._server = server
        self._server_scope = scope
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._is_answering = False
        self._answer: Answer | None = None
        self._has_ended = False
        self._may_probe = False
        self._room: asyncio.Future[None] | None = None
        # For the next request, for a client that reads nothing, for the next probe.
        self._idle: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._probe: asyncio.TimerHandle | None = None

    # -- called by the loop ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._is_answering:
            self._begin()
        elif len(self._received) > _UNREAD_BYTES_MAX:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._has_ended = True
        if not self._is_answering:
            return False
        self._ask_whether_it_is_there(_FIRST_PROBE_S)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._server.connections.discard(self)
        for timer in (self._idle, self._stall, self._probe):
            if timer is not None:
                timer.cancel()
        if self.scope is not None:
            self._server.client_has_gone(self.scope)
        self.resume_writing()

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()
        self._watch_for_stall(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # -- for the answer --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    async def room(self) -> None:
        """Wait until the client has taken most of what was written."""
        if self._room is not None:
            # Shielded, since others may wait for the same future.
            await asyncio.shield(self._room)

    def abort(self) -> None:
        self._transport.abort()

    # -- requests --------------------------------------------------------------------------------

    def _begin(self) -> None:
        request = self._take()
        if request is not None:
            self._is_answering = True
            if self._idle is not None:
                self._idle.cancel()
            self._server_scope.start(self._answer_all(request))

    async def _answer_all(self, request: Request | Refused | None) -> None:
        """Answer the requests that have arrived; return when the next one is not complete."""
        while request is not None and not self.is_lost:
            if isinstance(request, Refused):
                answer = Answer(self, None)
                await answer.whole(request.status, f"{request}\n".encode())
            else:
                answer = Answer(self, request)
                await self._answer_one(request, answer)
            if not answer.is_complete or not answer.keeps_alive:
                self._transport.close()
                return
            request = self._take()
        self._is_answering = False
        if self._has_ended:
            self._transport.close()
        elif not self.is_lost:
            self._wait_for_request()

    async def _answer_one(self, request: Request, answer: Answer) -> None:
        self._answer = answer
        self._may_probe = request.is_version_1_1
        try:
            await self._server.answer(request, self, answer)
        finally:
            self._answer = None

    def _take(self) -> Request | Refused | None:
        try:
            request = take_request(self._received)
        except Refused as refused:
            return refused
        if len(self._received) <= _UNREAD_BYTES_MAX:
            self._transport.resume_reading()
        return request

    # -- clients that send nothing, read nothing, or have gone -----------------------------------

    def _wait_for_request(self) -> None:
        self._idle = self._loop.call_later(self._server.idle_s, self._transport.close)

    def _watch_for_stall(self, n_unsent: int) -> None:
        delay_s = self._server.stall_s
        self._stall = self._loop.call_later(delay_s, self._check_for_stall, n_unsent)

    def _check_for_stall(self, n_before: int) -> None:
        n_unsent = self._transport.get_write_buffer_size()
        if n_unsent < n_before:
            self._watch_for_stall(n_unsent)
        else:
            self._transport.abort()

    def _ask_whether_it_is_there(self, next_s: float) -> None:
        # The first probe causes the reset, the second detects it: after a FIN nothing is read here.
        if self._may_probe and self._answer is not None and not self._answer.is_started:
            self.write(_ARE_YOU_THERE)
        later_s = min(2 * next_s, _PROBES_S)
        self._probe = self._loop.call_later(next_s, self._ask_whether_it_is_there, later_s)
