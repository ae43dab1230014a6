"""Since CPython 3.15 everything that is called for a connection runs in one context."""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from .harness import Contexts, Run, pipe, socket_pair, ticks

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 15), reason="this Python calls protocols in contexts of several kinds"
)

name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody's")
trail: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("trail", default=())


class Walker(asyncio.Protocol):
    """A protocol that appends each call's name to a context variable."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.name = name.get()
        self.lost: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        self.walk("new")

    def walk(self, step: str) -> None:
        trail.set((*trail.get(), step))

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.walk("made")

    def data_received(self, data: bytes) -> None:
        self.walk("data")

    def eof_received(self) -> None:
        self.walk("end")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.walk("lost")
        self.lost.set_result(trail.get())


async def server_of(kind: str, folder: Path, certificate: Any, walkers: list[Walker]) -> Any:
    """Start a server; return it and a function that connects to it."""
    loop = asyncio.get_running_loop()

    def walker() -> Walker:
        walkers.append(Walker())
        return walkers[-1]

    if kind == "Unix":
        path = str(folder / "socket")
        server = await loop.create_unix_server(walker, path)
        return server, lambda: asyncio.open_unix_connection(path)
    options = {"ssl": certificate[0]} if kind == "TLS" else {}
    server = await loop.create_server(walker, "127.0.0.1", 0, **options)
    address = server.sockets[0].getsockname()
    options = {"ssl": certificate[1]} if kind == "TLS" else {}
    return server, lambda: asyncio.open_connection(*address, **options)


@pytest.mark.parametrize("kind", ["TCP", "Unix", "TLS"])
def test_accepted_connection_has_one_context(
    run: Run, contexts: Contexts, tmp_path: Path, kind: str
) -> None:
    """Each connection has its own copy of the context in which the server was made."""

    async def main() -> None:
        walkers: list[Walker] = []
        name.set("the server's")
        server, connect = await server_of(kind, tmp_path, contexts, walkers)
        name.set("main's")
        clients = [await connect() for _ in range(3)]
        for _, writer in clients:
            writer.write(b"data")
            await writer.drain()
        for _, writer in clients:
            writer.close()
        for _, writer in clients:
            await writer.wait_closed()
        await eventually(lambda: len(walkers) >= 3)
        for walker in walkers:
            steps = await walker.lost
            assert steps in (
                ("new", "made", "data", "end", "lost"),
                ("new", "made", "data", "lost"),
            )
            assert "the server's" == walker.name
        assert () == trail.get()
        server.close()
        await server.wait_closed()

    run(main())


def test_server_that_is_started_late_has_the_context_in_which_it_was_made(run: Run) -> None:
    """`start_serving` may be called in any context."""

    async def main() -> None:
        made: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        class Names(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                made.set_result(name.get())
                transport.close()

        name.set("the server's")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Names, "127.0.0.1", 0, start_serving=False)
        name.set("main's")
        await server.start_serving()
        client = socket.create_connection(server.sockets[0].getsockname())
        assert "the server's" == await made
        client.close()
        server.close()
        await ticks(3)

    run(main())


def test_streams_of_a_server_have_the_context_of_their_connection(run: Run) -> None:
    """The callback of `start_server` runs in a copy, which begins with the server's variables."""

    async def main() -> None:
        async def serve(_reader: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(name.get().encode())
            name.set("a connection's")
            writer.close()

        name.set("the server's")
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        name.set("main's")
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert b"the server's" == await reader.read()
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("end", ["close", "abort", "peer"])
def test_connection_that_was_made_has_one_context(run: Run, end: str) -> None:
    """The context is a copy of the maker's: what either sets later is not seen by the other."""

    async def main() -> None:
        with socket_pair() as (ours, peer):
            name.set("main's")
            loop = asyncio.get_running_loop()
            transport, walker = await loop.create_connection(Walker, sock=ours)
            name.set("another")
            trail.set(("main's",))
            peer.send(b"data")
            await ticks(5)
            if end == "peer":
                peer.close()
            else:
                getattr(transport, end)()
            steps = await walker.lost
            # The protocol is made in its maker's context: "new" is not in the connection's trail.
            expected = ("made", "data", "end", "lost")
            assert [step for step in expected if step != "end" or end == "peer"] == list(steps)
            assert ("main's",) == trail.get()

    run(main())


def test_accepted_socket_that_is_connected_has_one_context(run: Run) -> None:
    """`connect_accepted_socket` gives its connection one context, too."""

    async def main() -> None:
        with socket_pair() as (ours, peer):
            loop = asyncio.get_running_loop()
            transport, walker = await loop.connect_accepted_socket(Walker, sock=ours)
            peer.send(b"data")
            await ticks(5)
            transport.close()
            assert ("made", "data", "lost") == await walker.lost

    run(main())


def test_full_connection_goes_on_in_its_context(run: Run) -> None:
    """Unsent data is sent in the connection's context, and `resume_writing` is called in it."""

    class Resumes(Walker):
        def resume_writing(self) -> None:
            self.walk("resume")

    async def main() -> None:
        with socket_pair() as (ours, peer):
            loop = asyncio.get_running_loop()
            transport, walker = await loop.create_connection(Resumes, sock=ours)
            transport.write(bytes(1 << 22))
            n_received = 0
            while n_received < 1 << 22:
                n_received += len(await loop.sock_recv(peer, 1 << 20))
            await ticks(3)
            transport.close()
            assert ("made", "resume", "lost") == await walker.lost

    run(main())


@pytest.mark.parametrize("how", ["_add_reader", "_add_writer"])
def test_watcher_runs_in_the_context_it_was_given(run: Run, how: str) -> None:
    """`_add_reader` and `_add_writer` call back in the given context, as transports ask."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        given = contextvars.copy_context()
        given.run(name.set, "given")
        with pipe() as (reading, writing):
            os.write(writing, b"x")
            fd = reading if how == "_add_reader" else writing
            remove: Callable[[int], Any] = getattr(loop, how.replace("add", "remove"))
            seen: asyncio.Future[str] = loop.create_future()

            def ready(*args: Any) -> None:
                remove(fd)
                seen.set_result(name.get())
                trail.set(args)

            handle = getattr(loop, how)(fd, ready, "argument", context=given)
            assert handle.get_context() is given
            assert "given" == await seen
            assert ("argument",) == given[trail]

    run(main())


def test_datagrams_are_received_in_the_context_of_their_endpoint(run: Run) -> None:
    """A received datagram sees the context variables of the code that made the endpoint."""

    class Names(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.seen.set_result(name.get())

    async def main() -> None:
        loop = asyncio.get_running_loop()
        name.set("main's")
        transport, names = await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0))
        name.set("another")
        with socket.socket(type=socket.SOCK_DGRAM) as peer:
            peer.sendto(b"x", transport.get_extra_info("sockname"))
            assert "main's" == await names.seen
        transport.close()
        await ticks(3)

    run(main())
