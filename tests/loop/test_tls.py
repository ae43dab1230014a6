"""TLS over our transports, with asyncio's own protocol."""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import pytest

from .harness import Contexts, Run, ticks


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back until the end of the stream."""
    while received := await reader.read(1 << 16):
        writer.write(received)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


def test_echo_comes_back(run: Run, contexts: Contexts) -> None:
    """Two megabytes go through a TLS server and back."""
    data = os.urandom(2 << 20)

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=contexts[0])
        async with server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address, ssl=contexts[1])
            assert writer.get_extra_info("ssl_object").version().startswith("TLSv1")
            writer.write(data)
            assert data == await reader.readexactly(len(data))
            writer.close()
            await writer.wait_closed()

    run(main())


def test_many_clients_at_once(run: Run, contexts: Contexts) -> None:
    """Twenty handshakes at the same time all succeed."""

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=contexts[0])
        address = server.sockets[0].getsockname()

        async def client(n: int) -> None:
            reader, writer = await asyncio.open_connection(*address, ssl=contexts[1])
            writer.write(b"%d\n" % n)
            assert b"%d\n" % n == await reader.readline()
            writer.close()
            await writer.wait_closed()

        async with server, asyncio.TaskGroup() as group:
            for n in range(20):
                group.create_task(client(n))

    run(main())


def test_connection_is_upgraded_on_both_sides(run: Run, contexts: Contexts) -> None:
    """`start_tls` upgrades an open connection to TLS, after plain lines."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert b"STARTTLS\n" == await reader.readline()
            writer.write(b"GO\n")
            await writer.drain()
            await writer.start_tls(contexts[0])
            await echo(reader, writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"STARTTLS\n")
            assert b"GO\n" == await reader.readline()
            await writer.start_tls(contexts[1], server_hostname="127.0.0.1")
            writer.write(b"secret\n")
            assert b"secret\n" == await reader.readline()
            assert writer.get_extra_info("cipher") is not None
            writer.close()
            await writer.wait_closed()

    run(main())


def test_untrusted_certificate_is_refused(run: Run, contexts: Contexts) -> None:
    """A client that does not trust the certificate gets SSLCertVerificationError."""

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=contexts[0])
        async with server:
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection(
                    *server.sockets[0].getsockname(), ssl=ssl.create_default_context()
                )
            await ticks(5)

    run(main())


def test_peer_that_does_not_speak_tls_is_an_error(run: Run, contexts: Contexts) -> None:
    """Plain text in place of a handshake is an error for the client."""

    async def main() -> None:
        def talk(_reader: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello, what is this?\n")
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=contexts[1])

    run(main())


def test_end_of_the_peer_is_the_end(run: Run, contexts: Contexts) -> None:
    """A TLS peer that closes ends the stream after its data."""

    async def main() -> None:
        def talk(_reader: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(b"all there is")
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=contexts[0])
        async with server:
            reader, writer = await asyncio.open_connection(
                *server.sockets[0].getsockname(), ssl=contexts[1]
            )
            assert b"all there is" == await reader.read(-1)
            writer.close()
            await writer.wait_closed()

    run(main())
