"""websockets, client and server, on one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("websockets", reason="websockets is not installed")

from websockets.asyncio.client import connect, unix_connect
from websockets.asyncio.server import ServerConnection, broadcast, serve, unix_serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


def address(server: Any, scheme: str = "ws") -> str:
    port = server.sockets[0].getsockname()[1]
    return f"{scheme}://127.0.0.1:{port}"


def test_messages_come_back(run: Any) -> None:
    """Text, a megabyte of bytes, and a message in fragments are echoed."""

    async def fragments() -> AsyncIterator[str]:
        for word in ("one ", "two ", "three"):
            yield word

    async def main() -> list[str | bytes]:
        async with (
            serve(echo, "127.0.0.1", 0, max_size=2**21) as server,
            connect(address(server), max_size=2**21, proxy=None) as client,
        ):
            received = []
            for message in ("héllo", bytes(range(256)) * 4096, fragments()):
                await client.send(message)
                received.append(await client.recv())
            return received

    assert ["héllo", bytes(range(256)) * 4096, "one two three"] == run(main())


def test_pipelined_messages_keep_their_order(run: Any) -> None:
    """A thousand messages are sent by one task while another receives them."""

    async def main() -> list[str]:
        async with (
            serve(echo, "127.0.0.1", 0) as server,
            connect(address(server), proxy=None) as client,
            asyncio.TaskGroup() as group,
        ):

            async def send_all() -> None:
                for n in range(1000):
                    await client.send(str(n))

            group.create_task(send_all())
            return [str(await client.recv()) for _ in range(1000)]

    assert run(main()) == [str(n) for n in range(1000)]


def test_a_ping_is_answered(run: Any) -> None:
    """The pong of the peer completes the ping's waiter with a latency in seconds."""

    async def main() -> float:
        async with (
            serve(echo, "127.0.0.1", 0) as server,
            connect(address(server), proxy=None) as client,
        ):
            waiter = await client.ping(b"are you there")
            latency: float = await waiter
            return latency

    assert 0 < run(main()) < 30


def test_both_ends_see_the_close_code(run: Any) -> None:
    """The client closes with a code of its own; the server's `recv` raises it."""

    async def main() -> tuple[int | None, str]:
        seen: asyncio.Future[ConnectionClosedError] = asyncio.get_running_loop().create_future()

        async def listen(connection: ServerConnection) -> None:
            try:
                await connection.recv()
            except ConnectionClosedError as error:
                seen.set_result(error)

        async with serve(listen, "127.0.0.1", 0) as server:
            client = await connect(address(server), proxy=None)
            await client.close(4000, "enough")
            received = (await seen).rcvd
            assert received is not None
            return received.code, received.reason

    assert (4000, "enough") == run(main())


def test_a_closing_server_says_goodbye(run: Any) -> None:
    """Closing the server ends its connections with code 1001, "going away"."""

    async def main() -> int:
        async with (
            serve(echo, "127.0.0.1", 0) as server,
            connect(address(server), proxy=None) as client,
        ):
            await client.send("ready")
            assert "ready" == await client.recv()
            server.close()
            with pytest.raises(ConnectionClosedOK) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            return closed.value.rcvd.code

    assert 1001 == run(main())


def test_a_broadcast_reaches_everyone(run: Any) -> None:
    """One call writes to twenty connections."""

    async def main() -> list[str | bytes]:
        async with serve(echo, "127.0.0.1", 0) as server:
            clients = [await connect(address(server), proxy=None) for _ in range(20)]
            broadcast(server.connections, "to all")
            messages = await asyncio.gather(*(client.recv() for client in clients))
            await asyncio.gather(*(client.close() for client in clients))
            return messages

    assert ["to all"] * 20 == run(main())


def test_a_handshake_can_be_refused(run: Any) -> None:
    """The server answers the handshake with a status; the client raises it."""

    async def main() -> int:
        def refuse(connection: ServerConnection, request: Any) -> Any:
            return connection.respond(403, "not you\n")

        async with serve(echo, "127.0.0.1", 0, process_request=refuse) as server:
            with pytest.raises(InvalidStatus) as refused:
                await connect(address(server), proxy=None)
            return refused.value.response.status_code

    assert 403 == run(main())


def test_tls_carries_messages(run: Any, tls: Any) -> None:
    """A message is echoed over wss."""

    async def main() -> str | bytes:
        async with (
            serve(echo, "127.0.0.1", 0, ssl=tls.server) as server,
            connect(address(server, "wss"), ssl=tls.client, proxy=None) as client,
        ):
            await client.send(b"secret" * 50_000)
            return await client.recv()

    assert b"secret" * 50_000 == run(main())


def test_unix_sockets_carry_messages(run: Any, tmp_path: Path) -> None:
    """A message is echoed over a socket in the file system."""

    async def main() -> str | bytes:
        path = str(tmp_path / "socket")
        async with unix_serve(echo, path), unix_connect(path) as client:
            await client.send("local")
            return await client.recv()

    assert "local" == run(main())
