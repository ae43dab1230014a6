"""TCP: what is sent comes back, in order, over many connections at once."""

import asyncio

import threadlets


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _exchange(port: int, message: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message)
    assert message == await reader.readexactly(len(message))
    writer.close()
    await writer.wait_closed()


async def _main() -> None:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, asyncio.timeout(30):
        port = server.sockets[0].getsockname()[1]
        await asyncio.gather(*(_exchange(port, bytes([n]) * 100_000) for n in range(50)))
    assert isinstance(asyncio.get_running_loop(), threadlets.Loop)


threadlets.run(_main())
