"""Drivers that do their own I/O and use the loop only for readiness, as psycopg does."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Wait = Literal["read", "write"]
Steps = Generator[Wait, None, T]


async def drive(sock: socket.socket, steps: Steps[T]) -> T:
    """Run a generator that yields the readiness it needs next, and return its result."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            need = next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
        ready = loop.create_future()
        add, remove = {
            "read": (loop.add_reader, loop.remove_reader),
            "write": (loop.add_writer, loop.remove_writer),
        }[need]
        add(sock, set_once, ready)
        try:
            await ready
        finally:
            assert remove(sock)


def set_once(future: asyncio.Future[None]) -> None:
    # Readiness is a level: the callback may run again before the watcher is removed.
    if not future.done():
        future.set_result(None)


def send(sock: socket.socket, message: bytes) -> Steps[None]:
    rest = memoryview(struct.pack("!I", len(message)) + message)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            yield "write"


def receive(sock: socket.socket) -> Steps[bytes]:
    (size,) = struct.unpack("!I", (yield from receive_exactly(sock, 4)))
    return (yield from receive_exactly(sock, size))


def receive_exactly(sock: socket.socket, size: int) -> Steps[bytes]:
    data = bytearray()
    while len(data) < size:
        try:
            chunk = sock.recv(size - len(data))
        except BlockingIOError:
            yield "read"
            continue
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def query(sock: socket.socket, message: bytes) -> Steps[bytes]:
    yield from send(sock, message)
    return (yield from receive(sock))


@asynccontextmanager
async def database(answer: Callable[[bytes], bytes]) -> AsyncIterator[socket.socket]:
    """Answer every message at the other end of a socket pair."""
    ours, theirs = socket.socketpair()

    async def serve() -> None:
        while True:
            try:
                message = await drive(theirs, receive(theirs))
            except EOFError:
                return
            await drive(theirs, send(theirs, answer(message)))

    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        async with asyncio.TaskGroup() as group:
            group.create_task(serve())
            try:
                yield ours
            finally:
                ours.shutdown(socket.SHUT_RDWR)


def test_queries_are_answered_in_turn(run: Any) -> None:
    """Three hundred small queries are answered, one after the other."""

    async def main() -> list[bytes]:
        async with database(bytes.upper) as sock:
            return [await drive(sock, query(sock, b"row %d" % n)) for n in range(300)]

    assert run(main()) == [b"ROW %d" % n for n in range(300)]


def test_a_large_result_waits_for_room(run: Any) -> None:
    """Messages beyond the socket's buffer need both kinds of readiness."""
    message = bytes(range(256)) * 16_384

    async def main() -> bytes:
        async with database(lambda data: data[::-1]) as sock:
            return await drive(sock, query(sock, message))

    assert run(main()) == message[::-1]


def test_many_connections_are_watched_at_once(run: Any) -> None:
    """Fifty conversations interleave on one loop."""

    async def converse(n: int) -> list[bytes]:
        async with database(lambda data: b"%d:%b" % (n, data)) as sock:
            return [await drive(sock, query(sock, b"%d" % k)) for k in range(20)]

    async def main() -> list[list[bytes]]:
        return await asyncio.gather(*(converse(n) for n in range(50)))

    assert run(main()) == [[b"%d:%d" % (n, k) for k in range(20)] for n in range(50)]


def test_a_cancelled_wait_leaves_the_socket_usable(run: Any) -> None:
    """A receive is cancelled before any data came; the next one gets the message."""

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            waiting = asyncio.create_task(drive(ours, receive(ours)))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            assert not loop.remove_reader(ours)
            await drive(theirs, send(theirs, b"late"))
            return await drive(ours, receive(ours))

    assert b"late" == run(main())


def test_a_closed_number_can_be_watched_again(run: Any) -> None:
    """The kernel reuses descriptor numbers: an old registration must not affect a new socket."""

    async def main() -> tuple[int, list[bytes]]:
        numbers, messages = set(), []
        for n in range(50):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.setblocking(False)
                theirs.setblocking(False)
                numbers.add(ours.fileno())
                await drive(theirs, send(theirs, b"%d" % n))
                messages.append(await drive(ours, receive(ours)))
        return len(numbers), messages

    n_numbers, messages = run(main())
    assert n_numbers < 50
    assert messages == [b"%d" % n for n in range(50)]


def test_reading_and_writing_are_watched_apart(run: Any) -> None:
    """Removing the writer of a socket leaves its reader in place."""

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            readable, writable = loop.create_future(), loop.create_future()
            loop.add_reader(ours, set_once, readable)
            loop.add_writer(ours, set_once, writable)
            await writable
            assert not readable.done()
            assert loop.remove_writer(ours)
            theirs.send(b"word")
            await readable
            assert loop.remove_reader(ours)
            assert not loop.remove_writer(ours)
            return ours.recv(10)

    assert b"word" == run(main())
