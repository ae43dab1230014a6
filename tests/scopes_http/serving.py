"""A server in the test's own loop, and clients that vanish in every way that sockets allow."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import threadlets
from waiting import eventually

from examples.scopes.answer import Answer
from examples.scopes.http import Request
from examples.scopes.server import Handler, Server

DEADLINE_S = 30.0
_RESET = struct.pack("ii", 1, 0)

Address = tuple[str, int]


@dataclass
class Served:
    """A running server, its address, and what its loop's exception handler was called with."""

    server: Server
    address: Address
    reported: list[dict[str, Any]] = field(default_factory=list)

    async def empty(self) -> None:
        """Wait until no request is being answered, and no client is connected."""
        await eventually(lambda: not self.server.counts.open and not self.server.connections)

    def ends(self) -> tuple[int, int, int]:
        """Return how many requests were answered, abandoned, and failed."""
        counts = self.server.counts
        assert 0 == counts.open
        return counts.answered, counts.abandoned, counts.failed


@asynccontextmanager
async def serving(handle: Handler, **times: float) -> AsyncIterator[Served]:
    """Serve `handle` while the block lasts; afterwards nothing of it may be left on the loop."""
    loop = asyncio.get_running_loop()
    before = threadlets.ledger()
    server = Server(handle, **times)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    served = Served(server, listener.getsockname())
    loop.set_exception_handler(lambda _, context: served.reported.append(context))
    task = asyncio.create_task(server.serve(listener))
    try:
        await asyncio.sleep(0)
        yield served
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await eventually(lambda: _left(threadlets.ledger()) == _left(before))


def _left(ledger: threadlets.Ledger) -> tuple[int, ...]:
    return (ledger.tasks, ledger.calls, ledger.syslets, ledger.waits, ledger.descriptors)


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    threadlets.run(main())


async def hello(_request: Request, answer: Answer) -> None:
    await answer.whole(HTTPStatus.OK, b"hello")


def encoded(path: str, *headers: str, version: str = "1.1") -> bytes:
    return "\r\n".join((f"GET {path} HTTP/{version}", *headers, "", "")).encode()


def client(address: Address, *requests: bytes, receive_bytes: int | None = None) -> socket.socket:
    """Connect and send requests, without waiting for answers."""
    sock = socket.socket()
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect(address)
    sock.sendall(b"".join(requests))
    sock.setblocking(False)
    return sock


def vanish(sock: socket.socket, *, by_reset: bool) -> None:
    """Close a client's socket: with a reset, or with the end of the stream."""
    if by_reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


async def rest(sock: socket.socket) -> bytes:
    """Receive until the server closes the connection, and close the socket."""
    loop = asyncio.get_running_loop()
    received = b""
    with sock:
        async with asyncio.timeout(DEADLINE_S):
            while piece := await loop.sock_recv(sock, 65536):
                received += piece
    return received


async def received(sock: socket.socket, end: bytes) -> bytes:
    """Receive until the received bytes end with `end`."""
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(DEADLINE_S):
        while not data.endswith(end):
            piece = await loop.sock_recv(sock, 65536)
            assert piece, data
            data += piece
    return data
