"""Servers accept every connection, and later those that cannot be accepted now."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from .harness import (
    DEADLINE_S,
    LoopFactory,
    Recorder,
    Run,
    Script,
    note_failures,
    threadlets_only,
    ticks,
)


async def serve(factory: Any = Recorder, **options: Any) -> tuple[asyncio.Server, tuple[str, int]]:
    """Start a server on a free port; return the server and its address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, **options)
    return server, server.sockets[0].getsockname()


def connect(address: tuple[str, int]) -> socket.socket:
    """Begin to connect without waiting for the outcome."""
    sock = socket.socket()
    sock.setblocking(False)
    assert sock.connect_ex(address) in (0, errno.EINPROGRESS)
    return sock


def test_two_thousand_connections_at_once_are_all_accepted(run: Run) -> None:
    """A backlog of 4096 into which 2000 connections come at once is emptied without a loss."""
    n_connections = 2000

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Any] = []
        all_made = asyncio.Event()

        class Counting(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                made.append(transport)
                if len(made) == n_connections:
                    all_made.set()

        server, address = await serve(Counting, backlog=4096)
        clients = [connect(address) for _ in range(n_connections)]
        await all_made.wait()
        made[-1].write(b"welcome")
        assert n_connections == len({transport.get_extra_info("peername") for transport in made})
        for transport in made:
            transport.close()
        answers = [await loop.sock_recv(client, 1) for client in clients]
        assert 1 == len([answer for answer in answers if answer])
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_server_goes_on_while_its_protocols_work(run: Run) -> None:
    """Connections that come one after the other are each served, with the data sent along."""

    async def main() -> None:
        async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readline()).upper())
            writer.close()

        server = await asyncio.start_server(upper, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            for n in range(100):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"line %d\n" % n)
                assert b"LINE %d\n" % n == await reader.read(-1)
                writer.close()
                await writer.wait_closed()

    run(main())


OUT_OF_DESCRIPTORS = """
import resource, socket

async def main():
    loop = asyncio.get_running_loop()
    failures = []
    told = asyncio.Event()
    def on_failure(_loop, context):
        failures.append(context)
        told.set()
    loop.set_exception_handler(on_failure)
    accepted = []
    class Answering(asyncio.Protocol):
        def connection_made(self, transport):
            accepted.append(transport)
            transport.write(b"welcome")
    server = await loop.create_server(Answering, "127.0.0.1", 0, backlog=100)
    clients = [socket.socket() for _ in range(30)]
    for client in clients:
        client.setblocking(False)
    used = len(__import__("os").listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, 4096))
    for client in clients:
        await loop.sock_connect(client, server.sockets[0].getsockname())
    await told.wait()
    print(len(accepted) < len(clients), type(failures[0]["exception"]).__name__,
          failures[0]["exception"].errno)
    print(failures[0]["message"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    for client in clients:
        assert b"welcome" == await loop.sock_recv(client, 100)
    print(len(accepted))
    server.close()
    for client in clients:
        client.close()
    for transport in accepted:
        transport.abort()

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""


def test_server_out_of_descriptors_says_so_and_recovers(script: Script) -> None:
    """EMFILE reaches the exception handler; with descriptors again every connection is accepted."""
    output, errors = script(OUT_OF_DESCRIPTORS).communicate(timeout=DEADLINE_S)
    lines = output.splitlines()
    assert "" == errors
    assert f"True OSError {errno.EMFILE}" == lines[0]
    assert "out of system resource" in lines[1]
    assert "30" == lines[2]


@threadlets_only
def test_report_of_missing_descriptors_names_the_limit_and_the_remedy(script: Script) -> None:
    """The message says what happens to the connections, names the limit, and says how to raise it."""
    output, _ = script(OUT_OF_DESCRIPTORS).communicate(timeout=DEADLINE_S)
    message = output.splitlines()[1]
    for part in ("wait in the backlog", "descriptors", "ulimit -n"):
        assert part in message


@threadlets_only
def test_server_closed_while_it_waits_for_descriptors_stays_closed(script: Script) -> None:
    """A closed server does not try to accept again, and reports nothing."""
    program = OUT_OF_DESCRIPTORS.replace(
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n",
        "    server.close()\n    failures.clear()\n    await asyncio.sleep(1.2)\n"
        "    print(failures)\n    return\n",
    )
    output, errors = script(program).communicate(timeout=DEADLINE_S)
    assert "[]" == output.splitlines()[-1]
    assert "" == errors


@threadlets_only
def test_failing_protocol_factory_loses_one_connection_only(run: Run) -> None:
    """A factory that raises is reported, its peer sees the end, and the next connection is served."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        failures = note_failures()
        n_made = 0

        def make() -> asyncio.Protocol:
            nonlocal n_made
            n_made += 1
            if n_made == 1:
                raise ZeroDivisionError
            return Recorder()

        server, address = await serve(make)
        refused = connect(address)
        assert b"" == await loop.sock_recv(refused, 1)
        (failure,) = failures
        assert isinstance(failure["exception"], ZeroDivisionError)
        assert "incoming connection" in failure["message"]
        _, welcome = await loop.create_connection(Recorder, *address)
        assert ["made"] == welcome.calls
        await ticks(3)
        assert 2 == n_made
        welcome.transport.abort()
        refused.close()
        server.close()

    run(main())


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_interrupt_in_a_factory_loses_one_connection_only(loop_factory: LoopFactory) -> None:
    """KeyboardInterrupt leaves the run; the next run accepts the connections that waited."""
    loop = loop_factory()
    made: list[Recorder] = []
    all_made = asyncio.Event()

    def make() -> asyncio.Protocol:
        made.append(Recorder())
        if len(made) == 1:
            raise KeyboardInterrupt
        if len(made) == 3:
            all_made.set()
        return made[-1]

    server, address = loop.run_until_complete(serve(make))
    clients = []
    for _ in range(3):
        clients.append(socket.create_connection(address))
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(all_made.wait())
        loop.run_until_complete(asyncio.wait_for(all_made.wait(), DEADLINE_S / 5))
    finally:
        for client in clients:
            client.close()
        server.close()
        loop.run_until_complete(ticks(5))
        for protocol in made[1:]:
            if protocol.transport is not None:
                protocol.transport.abort()
        loop.run_until_complete(ticks(5))
        loop.close()
        gc.collect()


def test_unix_server_serves(run: Run, tmp_path: Path) -> None:
    """A server serves a Unix socket, whose path can be served again after closing."""
    path = str(tmp_path / "socket")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            served: list[Recorder] = []

            def make(protocols: list[Recorder] = served) -> Recorder:
                protocols.append(Recorder())
                return protocols[-1]

            server = await loop.create_unix_server(make, path)
            transport, client = await loop.create_unix_connection(Recorder, path)
            transport.write(b"hello")
            transport.close()
            await client.lost.wait()
            await ticks(2)
            assert b"hello" == await served[0].receive(5)
            await served[0].lost.wait()
            assert path == served[0].transport.get_extra_info("sockname")
            server.close()
            await server.wait_closed()

    run(main())


def test_server_can_start_later(run: Run) -> None:
    """With `start_serving=False` no connection is accepted until `start_serving()`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made = asyncio.Event()

        def make() -> Recorder:
            made.set()
            return Recorder()

        server, address = await serve(make, start_serving=False)
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, *address)
        await server.start_serving()
        await server.start_serving()
        assert server.is_serving()
        transport, _ = await loop.create_connection(Recorder, *address)
        await made.wait()
        transport.close()
        await ticks(3)
        server.close()

    run(main())


def test_closing_server_refuses_waiting_clients(run: Run) -> None:
    """Closing a server resets the connections in its backlog, and later ones are refused."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Recorder] = []

        def make() -> Recorder:
            made.append(Recorder())
            return made[-1]

        server, address = await serve(make)
        waiting = [socket.create_connection(address) for _ in range(20)]
        server.close()
        assert not server.is_serving()
        await ticks(5)
        assert [] == made
        for sock in waiting:
            sock.setblocking(False)
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(sock, 1)
            sock.close()
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, *address)

    run(main())


@threadlets_only
def test_server_closed_while_it_accepts_serves_accepted_clients(run: Run) -> None:
    """A protocol factory closes its server: earlier connections are served, later ones refused."""

    async def main() -> None:
        made: list[Recorder] = []

        def make() -> Recorder:
            made.append(Recorder())
            server.close()
            return made[-1]

        server, address = await serve(make)
        clients = [socket.create_connection(address) for _ in range(5)]
        await ticks(10)
        assert 5 == len(made)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        for client in clients:
            client.close()
        for protocol in made:
            await protocol.lost.wait()

    run(main())


def test_connections_outlive_their_server(run: Run) -> None:
    """Closing a server leaves its connections open."""

    async def main() -> None:
        made: asyncio.Future[Recorder] = asyncio.Future()

        def make() -> Recorder:
            made.set_result(Recorder())
            return made.result()

        loop = asyncio.get_running_loop()
        server, address = await serve(make)
        transport, client = await loop.create_connection(Recorder, *address)
        served = await made
        server.close()
        await ticks(3)
        transport.write(b"still here")
        assert b"still here" == await served.receive(10)
        served.transport.close()
        await client.lost.wait()

    run(main())


def test_serve_forever_ends_with_its_task(run: Run) -> None:
    """Cancelling `serve_forever` closes the server."""

    async def main() -> None:
        server, _ = await serve(start_serving=False)
        serving = asyncio.create_task(server.serve_forever())
        await ticks(3)
        assert server.is_serving()
        serving.cancel()
        await asyncio.wait([serving])
        assert not server.is_serving()
        assert () == server.sockets

    run(main())


def test_taken_port_is_an_error(run: Run) -> None:
    """A second server on one port fails with EADDRINUSE."""

    async def main() -> None:
        server, address = await serve()
        with pytest.raises(OSError, match="in use") as caught:
            await asyncio.get_running_loop().create_server(Recorder, *address)
        assert errno.EADDRINUSE == caught.value.errno
        server.close()

    run(main())


def test_server_serves_a_socket_it_is_given(run: Run) -> None:
    """`sock=` may be any listening socket, also one for IPv6."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                listener = socket.create_server((host, 0), family=family)
            except OSError:
                assert socket.AF_INET6 == family  # Not every machine has IPv6.
                continue
            served = Recorder()
            server = await loop.create_server(lambda it=served: it, sock=listener)
            transport, _ = await loop.create_connection(Recorder, *listener.getsockname()[:2])
            transport.abort()
            await served.lost.wait()
            server.close()

    run(main())


def test_client_connects_from_a_given_address(run: Run) -> None:
    """`local_addr=` binds the client's socket; a connection to a closed server is refused."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server, (host, port) = await serve()
        transport, _ = await loop.create_connection(
            Recorder, host, port, local_addr=("127.0.0.1", 0), happy_eyeballs_delay=0.1
        )
        assert (host, port) == transport.get_extra_info("peername")
        transport.abort()
        server.close()
        await ticks(3)
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, host, port)

    run(main())


def test_failing_connection_made_of_an_accepted_connection_is_reported(run: Run) -> None:
    """The exception handler is called; that connection and the others go on."""

    class Failing(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            served.append(self)
            if len(served) == 1:
                raise ZeroDivisionError

    served: list[Recorder] = []

    async def main() -> None:
        failures = note_failures()
        server, address = await serve(Failing)
        for n in range(2):
            with socket.create_connection(address) as client:
                client.send(b"data")
                while len(served) == n:
                    await ticks(1)
                assert b"data" == await served[n].receive(4)
            await served[n].lost.wait()
        assert [ZeroDivisionError] == [type(failure["exception"]) for failure in failures]
        server.close()

    run(main())


def test_accepted_connections_have_contexts_of_their_own(run: Run) -> None:
    """A context variable that one connection sets is not seen by the next one."""
    var: ContextVar[str] = ContextVar("var", default="default")
    seen: list[str] = []

    class Setting(Recorder):
        def connection_made(self, transport: Any) -> None:
            seen.append(var.get())
            var.set("of another connection")
            super().connection_made(transport)

    async def main() -> None:
        var.set("of the server")
        served: list[Recorder] = []

        def make() -> Recorder:
            served.append(Setting())
            return served[-1]

        server, address = await serve(make)
        clients = [socket.create_connection(address) for _ in range(3)]
        while len(seen) < 3:
            await ticks(1)
        assert ["of the server"] * 3 == seen
        for client in clients:
            client.close()
        for protocol in served:
            await protocol.lost.wait()
        server.close()

    run(main())


def test_data_sent_with_the_connection_follows_connection_made(run: Run) -> None:
    """Each accepted connection gets `connection_made`, then its data, then its end."""

    async def main() -> None:
        served: list[Recorder] = []

        def make() -> Recorder:
            served.append(Recorder())
            return served[-1]

        server, address = await serve(make)
        for n in range(20):
            with socket.create_connection(address) as client:
                client.send(b"data %d" % n)
        while len(served) < 20:
            await ticks(1)
        for protocol in served:
            await protocol.lost.wait()
            assert ["made", "data", "end", "lost"] == protocol.calls
        assert {b"data %d" % n for n in range(20)} == {bytes(it.received) for it in served}
        server.close()

    run(main())


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", "unix"])
def test_connection_knows_its_own_address(run: Run, tmp_path: Path, host: str) -> None:
    """`sockname` is what the client has reached, also where the server listens on every address."""
    family = {"unix": socket.AF_UNIX}.get(host, socket.AF_INET6 if ":" in host else socket.AF_INET)
    if family == socket.AF_INET6:
        with socket.socket(family) as tried:
            try:
                tried.bind((host, 0))
            except OSError as error:
                pytest.skip(f"no IPv6 here: {error}")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Queue[asyncio.BaseTransport] = asyncio.Queue()

        class Accepting(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                accepted.put_nowait(transport)

        with socket.socket(family) as client:
            client.setblocking(False)
            if host == "unix":
                server = await loop.create_unix_server(Accepting, tmp_path / "socket")
                reached: Any = str(tmp_path / "socket")
            else:
                server = await loop.create_server(Accepting, host, 0)
                port = server.sockets[0].getsockname()[1]
                reached = ("::1" if ":" in host else "127.0.0.1", port)
            async with server:
                await loop.sock_connect(client, reached)
                transport = await accepted.get()
                assert client.getpeername() == transport.get_extra_info("sockname")
                assert client.getsockname() == transport.get_extra_info("peername")
                transport.close()

    run(main())
