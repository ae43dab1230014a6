"""Helpers of the tests in this folder: peers, protocols that record their calls, deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, TypeVar

import pytest

T = TypeVar("T")
P = TypeVar("P", bound=asyncio.BaseProtocol)

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Run = Callable[..., Any]
Script = Callable[..., Any]

# TLS contexts: a server's, and a client's that trusts it.
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

DEADLINE_S = 10.0

# For tests of promises that are ours alone: the stock loop does not make them.
threadlets_only = pytest.mark.parametrize("loop_factory", ["threadlets"], indirect=True)


# Recorders whose connections are open: `end_connections` ends those that a test leaves.
open_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


class Recorder(asyncio.Protocol):
    """A protocol that records its calls in order."""

    def __init__(self, *, keeps_open: bool = False) -> None:
        self.keeps_open = keeps_open
        self.calls: list[str] = []
        self.received = bytearray()
        self.error: BaseException | None = None
        self.transport: Any = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.ended = asyncio.Event()
        self.lost = asyncio.Event()
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.loop = asyncio.get_running_loop()
        self.note("made")

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.note("data")

    def eof_received(self) -> bool:
        self.note("end")
        self.ended.set()
        return self.keeps_open

    def pause_writing(self) -> None:
        self.note("pause")

    def resume_writing(self) -> None:
        self.note("resume")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.error = exc
        self.note("lost")
        self.lost.set()

    def note(self, call: str) -> None:
        if call == "made":
            open_recorders.add(self)
        elif call == "lost":
            open_recorders.discard(self)
        self.calls.append(call)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is checked after each recorded call."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def receive(self, n_bytes: int) -> bytes:
        """Wait until at least `n_bytes` bytes have been received, and return all of them."""
        await self.until(lambda: len(self.received) >= n_bytes)
        return bytes(self.received)


class Connection(Generic[P]):
    """A transport with its protocol, and the socket at the other end."""

    def __init__(self, transport: Any, protocol: P, peer: socket.socket) -> None:
        self.transport = transport
        self.protocol = protocol
        self.peer = peer

    async def take(self, n_bytes: int) -> bytes:
        """Receive exactly `n_bytes` bytes at the other end."""
        loop = asyncio.get_running_loop()
        data = bytearray()
        while len(data) < n_bytes:
            received = await loop.sock_recv(self.peer, n_bytes - len(data))
            assert received, f"the end came after {len(data)} of {n_bytes} bytes"
            data += received
        return bytes(data)

    async def take_all(self) -> bytes:
        """Receive at the other end until the end of the stream."""
        loop = asyncio.get_running_loop()
        data = bytearray()
        while received := await loop.sock_recv(self.peer, 1 << 18):
            data += received
        return bytes(data)


@contextlib.asynccontextmanager
async def connected(
    make_protocol: Callable[[], P], *, tcp: bool = False
) -> AsyncIterator[Connection[P]]:
    """Connect a transport over one end of a new pair of sockets; the other end stays a socket."""
    loop = asyncio.get_running_loop()
    ours, peer = tcp_pair() if tcp else socket.socketpair()
    peer.setblocking(False)
    with peer:
        transport, protocol = await loop.create_connection(make_protocol, sock=ours)
        try:
            yield Connection(transport, protocol, peer)
        finally:
            if transport.get_protocol() is not None:  # It is None once the connection is lost.
                transport.abort()
            await ticks(2)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected TCP sockets, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


@contextlib.contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return two connected Unix sockets, both non-blocking."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Return the reading end and the writing end of a non-blocking pipe."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    try:
        yield reading, writing
    finally:
        for fd in (reading, writing):
            with contextlib.suppress(OSError):
                os.close(fd)


async def ticks(n_ticks: int) -> None:
    """Let the loop run `n_ticks` ticks."""
    for _ in range(n_ticks):
        await asyncio.sleep(0)


async def end_connections() -> None:
    """End the connections that a test has left open."""
    for recorder in list(open_recorders):
        transport = recorder.transport
        if recorder.loop is asyncio.get_running_loop() and not transport.is_closing():
            getattr(transport, "abort", transport.close)()
    await ticks(3)


def note_failures() -> list[dict[str, Any]]:
    """Return a list that collects what the running loop's exception handler is given."""
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: failures.append(context))
    return failures


def n_descriptors() -> int:
    """Return how many descriptors the process has open, without the one that lists them."""
    return len(os.listdir("/proc/self/fd")) - 1
