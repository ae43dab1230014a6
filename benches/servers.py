"""Echo servers in every style that asyncio offers. The same code runs on every loop.

``python -m benches.servers PEER STYLE`` listens on a free port of 127.0.0.1, prints
``{"port": P}`` and serves until killed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

from benches import peers

#: More than any scenario opens at once; the kernel cuts it to somaxconn.
BACKLOG = 4096
_CHUNK_SIZE = 64 * 1024


async def serve_protocol(listener: socket.socket) -> None:
    """Echo from ``data_received``."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoProtocol, sock=listener, backlog=BACKLOG)
    await server.serve_forever()


async def serve_buffered(listener: socket.socket) -> None:
    """Echo from a buffer that the protocol owns."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(EchoBufferedProtocol, sock=listener, backlog=BACKLOG)
    await server.serve_forever()


async def serve_streams(listener: socket.socket) -> None:
    """Echo with ``StreamReader.read`` and ``StreamWriter.drain``."""
    server = await asyncio.start_server(_echo_stream, sock=listener, backlog=BACKLOG)
    await server.serve_forever()


async def serve_sock(listener: socket.socket) -> None:
    """Echo with ``loop.sock_recv`` and ``loop.sock_sendall``, a task per connection."""
    loop = asyncio.get_running_loop()
    listener.listen(BACKLOG)
    listener.setblocking(False)
    tasks: set[asyncio.Task[None]] = set()
    while True:
        connection, _ = await loop.sock_accept(listener)
        # Transports set TCP_NODELAY themselves; on bare sockets the program has to.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = loop.create_task(_echo_sock(loop, connection))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


STYLES: dict[str, Callable[[socket.socket], Awaitable[None]]] = {
    "protocol": serve_protocol,
    "buffered": serve_buffered,
    "streams": serve_streams,
    "sock": serve_sock,
}


class EchoProtocol(asyncio.Protocol):
    """Send back what arrives."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self.transport.write(data)


class EchoBufferedProtocol(asyncio.BufferedProtocol):
    """Send back what arrives, received into one buffer per connection."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        """Allocate the buffer."""
        self.buffer = bytearray(_CHUNK_SIZE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        self.transport = transport  # type: ignore[assignment]

    def get_buffer(self, sizehint: int) -> bytearray:
        """Lend the whole buffer."""
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Answer with a copy: the next message may arrive before this one has left."""
        self.transport.write(self.buffer[:nbytes])


async def _echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # A reset means that the client has left.
    with suppress(ConnectionError):
        while data := await reader.read(_CHUNK_SIZE):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _echo_sock(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    with connection, suppress(ConnectionError):
        while data := await loop.sock_recv(connection, _CHUNK_SIZE):
            await loop.sock_sendall(connection, data)


def main(peer: str, style: str) -> None:
    """Serve until killed."""
    serve = STYLES[style]
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    settle_heap()
    peers.run(peer, _serve(serve, listener))


def settle_heap() -> None:
    """Bring the heap of a fresh process to the state of one that has worked for a while.

    glibc maps blocks above 128 KiB one by one until the first such block is freed; then it keeps
    them. asyncio receives into 256 KiB, so in a fresh process every message costs it a map, page
    faults and an unmap: it is four times slower, depending on what the program has freed before.
    """
    bytes(1024 * 1024)
    # Garbage of the imports must not count as the loop's.
    gc.collect()
    gc.freeze()


async def _serve(
    serve: Callable[[socket.socket], Awaitable[None]], listener: socket.socket
) -> None:
    await serve(listener)


if __name__ == "__main__":
    main(*sys.argv[1:])
