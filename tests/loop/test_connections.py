"""Many connections at once: served a few at a time, with little work for the collector."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
import weakref
from collections import Counter
from typing import Any

import pytest
import threadlets

from .harness import LoopFactory, Run, threadlets_only, ticks

#: How many connections wait at once in these tests.
N = 100
#: Most connections open at once: those of one tick, with room for those that end a little later.
FEW = 40


async def serve(factory: Any) -> tuple[asyncio.Server, tuple[str, int]]:
    """Start a server on a free port; return the server and its address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=4 * N)
    return server, server.sockets[0].getsockname()


def ask(address: tuple[str, int], n: int) -> list[socket.socket]:
    """Connect `n` clients that each send a request; return their sockets."""
    clients = [socket.create_connection(address) for _ in range(n)]
    for client in clients:
        client.send(b"request")
    return clients


class Answering(asyncio.Protocol):
    """Answers the data that arrives and closes, as an HTTP server does."""

    n_open = 0
    n_open_max = 0
    n_ended = 0
    made = 0

    def connection_made(self, transport: Any) -> None:
        """Count."""
        self.transport = transport
        kind = type(self)
        kind.made += 1
        kind.n_open += 1
        kind.n_open_max = max(kind.n_open_max, kind.n_open)

    def data_received(self, _data: bytes) -> None:
        """Answer and close."""
        self.transport.write(b"answer")
        self.transport.close()

    def connection_lost(self, _exc: BaseException | None) -> None:
        """Count."""
        type(self).n_open -= 1
        type(self).n_ended += 1


@threadlets_only
def test_connections_that_wait_are_served_few_at_a_time(run: Run) -> None:
    """The first connections have ended before the last ones are made, and every one is answered."""

    class Counting(Answering):
        pass

    async def main() -> None:
        server, address = await serve(Counting)
        clients = ask(address, N)
        while Counting.n_ended < N:
            await ticks(1)
        assert Counting.n_open_max <= FEW
        for client in clients:
            assert b"answer" == client.recv(100)
            client.close()
        server.close()

    run(main())


@threadlets_only
def test_connections_that_come_in_each_tick_make_no_larger_batches(run: Run) -> None:
    """Readiness of a listener on which connections wait adds nothing to its pending request."""

    class Counting(Answering):
        pass

    async def main() -> None:
        server, address = await serve(Counting)
        clients = []
        for _ in range(10):
            clients += ask(address, 20)
            before = Counting.made
            await ticks(1)
            assert Counting.made - before <= FEW / 2
        while Counting.n_ended < len(clients):
            await ticks(1)
        for client in clients:
            client.close()
        server.close()

    run(main())


@threadlets_only
def test_connections_are_made_while_one_blocks_in_its_making(run: Run) -> None:
    """Connections that were accepted with the blocking one are made without waiting for it."""
    release = threading.Event()

    class Blocking(Answering):
        tasks: list[Any] = []  # noqa: RUF012

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if self.made == 1:
                loop: Any = asyncio.get_running_loop()
                self.tasks.append(loop.create_task(block(), eager_start=True))

    async def block() -> None:
        await threadlets.call(release.wait, 30)

    async def main() -> None:
        server, address = await serve(Blocking)
        clients = ask(address, 3)
        try:
            while Blocking.made < 3:
                await asyncio.sleep(0)
        finally:
            release.set()
        while Blocking.n_ended < 3:
            await asyncio.sleep(0)
        for client in clients:
            client.close()
        server.close()

    run(main())


@threadlets_only
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_connections_that_a_closed_loop_has_not_served_are_refused(
    loop_factory: LoopFactory,
) -> None:
    """Closing a loop ends the connections that it has accepted and not served."""

    class Counting(Answering):
        pass

    loop = loop_factory()
    server, address = loop.run_until_complete(serve(Counting))
    clients = ask(address, N)
    while not Counting.made:
        loop.run_until_complete(ticks(1))
    assert Counting.made < N
    loop.close()
    gc.collect()
    n_refused = 0
    for client in clients:
        client.settimeout(10)
        with client:
            try:
                n_refused += client.recv(100) == b""
            except ConnectionResetError:
                n_refused += 1
    assert n_refused >= N - Counting.made
    server.close()


def test_connections_that_came_before_their_server_was_closed_are_served(run: Run) -> None:
    """Their clients see them as accepted, and no other server could serve them."""

    class Counting(Answering):
        pass

    async def main() -> None:
        server, address = await serve(Counting)
        clients = ask(address, N)
        while not Counting.made:
            await ticks(1)
        server.close()
        loop = asyncio.get_running_loop()
        for client in clients:
            client.setblocking(False)
            assert b"answer" == await loop.sock_recv(client, 100)
            client.close()
        await server.wait_closed()

    run(main())


def _tracked() -> Counter[type]:
    """Count the objects that the collector tracks, by type."""
    counts: Counter[type] = Counter()
    # One by one: Counter.update() tests its argument for an abstract class, whose cache adds objects.
    for found in gc.get_objects():
        counts[type(found)] += 1
    return counts


@threadlets_only
def test_connection_costs_the_collector_four_objects(run: Run) -> None:
    """The four are protocol, transport, native stream and its `write`; since 3.15 a context, too."""

    class Idle(asyncio.Protocol):
        __slots__ = ("transport",)

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            made.append(self)

    made: list[Idle] = []

    async def main() -> None:
        server, address = await serve(Idle)
        clients = [socket.create_connection(address)]
        while len(made) < 1:
            await ticks(1)
        clients += [socket.create_connection(address) for _ in range(N)]
        gc.collect()
        gc.disable()
        try:
            before = _tracked()
            while len(made) < N + 1:
                await ticks(1)
            new = _tracked() - before
        finally:
            gc.enable()
        # The bound has room for what the loop and the test make meanwhile. From CPython 3.13 on
        # servers refer to their transports weakly, from 3.15 on each connection has a context.
        n_each = 4 + (sys.version_info >= (3, 13)) + (sys.version_info >= (3, 15))
        assert new.total() < (n_each + 1) * N, new
        for protocol in made:
            protocol.transport.abort()
        await ticks(3)
        for client in clients:
            client.close()
        server.close()

    run(main())


@threadlets_only
def test_connection_that_is_over_is_freed_without_the_collector(run: Run) -> None:
    """A protocol that keeps its transport and that one's socket is freed with its connection."""
    gone: list[weakref.ref[Any]] = []

    class Keeping(Answering):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.sock = transport.get_extra_info("socket")
            self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
            gone.extend((weakref.ref(self), weakref.ref(transport)))

    async def main() -> None:
        server, address = await serve(Keeping)
        gc.disable()
        try:
            [client] = ask(address, 1)
            while Keeping.n_ended < 1:
                await ticks(1)
            await ticks(1)
            assert [None, None] == [it() for it in gone]
        finally:
            gc.enable()
        client.close()
        server.close()

    run(main())


@threadlets_only
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_connection_that_was_not_ended_is_found_by_the_collector(
    loop_factory: LoopFactory,
) -> None:
    """Connections that were never ended are collected with their loop."""
    made: list[weakref.ref[Any]] = []

    class Keeping(Answering):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.sock = transport.get_extra_info("socket")
            made.extend((weakref.ref(self), weakref.ref(transport)))

    def leave() -> None:
        loop = loop_factory()
        server, address = loop.run_until_complete(serve(Keeping))
        with socket.create_connection(address):
            while not made:
                loop.run_until_complete(ticks(1))
        server.close()
        loop.close()

    leave()
    gc.collect()
    assert [None, None] == [it() for it in made]


def test_socket_of_an_accepted_connection_knows_its_names_until_it_is_closed(run: Run) -> None:
    """The transport's socket is one object, answers as sockets do, and is closed with it."""

    class Made(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            made.append(transport)

    made: list[Any] = []

    async def main() -> None:
        server, address = await serve(Made)
        client, other = (socket.create_connection(address) for _ in range(2))
        while len(made) < 2:
            await ticks(1)
        for transport, peer in zip(made, (client, other), strict=True):
            sock = transport.get_extra_info("socket")
            assert sock is transport.get_extra_info("socket")
            assert address == sock.getsockname()
            assert peer.getsockname() == sock.getpeername()
            assert sock.fileno() >= 0
        sock = made[0].get_extra_info("socket")
        assert (socket.AF_INET, socket.SOCK_STREAM) == (sock.family, sock.type)
        assert 0 != sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for transport, peer in zip(made, (client, other), strict=True):
            transport.close()
            await ticks(3)
            assert -1 == transport.get_extra_info("socket").fileno()
            with pytest.raises(OSError, match="Bad file descriptor"):
                transport.get_extra_info("socket").getpeername()
            assert peer.getsockname() == transport.get_extra_info("peername")
            assert address == transport.get_extra_info("sockname")
            assert "default" == transport.get_extra_info("nothing", "default")
            assert b"" == peer.recv(1)
            peer.close()
        server.close()

    run(main())
