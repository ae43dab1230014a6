"""asyncio's streams do the same on both loops; on ours their readers and writers are native."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import threadlets

from .harness import Contexts, Run, tcp_pair, ticks

#: Reads of a stream, by name.
READS: dict[str, Callable[[asyncio.StreamReader], Any]] = {
    "read-3": lambda reader: reader.read(3),
    "read-0": lambda reader: reader.read(0),
    "read-huge": lambda reader: reader.read(1 << 70),
    "read-all": lambda reader: reader.read(),
    "readexactly-0": lambda reader: reader.readexactly(0),
    "readexactly-5": lambda reader: reader.readexactly(5),
    "readexactly-minus": lambda reader: reader.readexactly(-1),
    "readline": lambda reader: reader.readline(),
    "readuntil-ab": lambda reader: reader.readuntil(b"ab"),
    "readuntil-empty": lambda reader: reader.readuntil(b""),
    "readuntil-bytearray": lambda reader: reader.readuntil(bytearray(b"\n")),
}


@asynccontextmanager
async def stream(
    limit: int = 64, make_reader: type[asyncio.StreamReader] = asyncio.StreamReader
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, socket.socket]]:
    """Connect a reader and a writer, and a plain socket at the other end."""
    loop = asyncio.get_running_loop()
    ours, peer = tcp_pair()
    reader = make_reader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    try:
        yield reader, writer, peer
    finally:
        transport.abort()
        peer.close()
        await ticks(2)


async def until(condition: Callable[[], bool]) -> None:
    """Wait, within the deadline of the test, until the condition holds."""
    while not condition():
        await asyncio.sleep(0)


async def outcome(read: Any) -> Any:
    """Return what a read returns, or a description of the error."""
    try:
        return await read
    except Exception as error:
        described = [type(error).__name__, str(error)]
        return [*described, getattr(error, "partial", None), getattr(error, "consumed", None)]


def is_ours() -> bool:
    """Return whether the running loop is ours."""
    return isinstance(asyncio.get_running_loop(), threadlets.Loop)


def test_readers_and_writers_pass_for_asyncios(run: Run) -> None:
    """They are instances of asyncio's classes and have their repr; on our loop they are native."""

    async def main() -> None:
        met: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(lambda *pair: met.set_result(pair), "127.0.0.1", 0)
        async with server:
            address = server.sockets[0].getsockname()
            client, client_writer = await asyncio.open_connection(*address)
            reader, writer = await met
            for it in (client, reader):
                assert isinstance(it, asyncio.StreamReader)
                assert is_ours() == hasattr(it, "_read_buffer")
                assert repr(it).startswith("<StreamReader transport=<")
            assert isinstance(writer, asyncio.StreamWriter)
            assert is_ours() == (type(writer) is not asyncio.StreamWriter)
            assert repr(writer).startswith("<StreamWriter transport=<")
            client_writer.close()
            writer.close()

    run(main())


@pytest.mark.parametrize("debug", [False, True])
def test_random_reads_have_the_outcomes_of_a_stock_reader(run: Run, debug: bool) -> None:
    """Any sequence of reads gives the values and the errors of asyncio's reader with the same bytes."""
    choose = random.Random(7)

    async def main() -> None:
        asyncio.get_running_loop().set_debug(debug)
        for _ in range(60):
            data = bytes(choose.choices(b"ab\n", [5, 2, 1], k=choose.randrange(60)))
            names = choose.choices(list(READS), k=8)
            limit = choose.randrange(1, 40)
            async with stream(limit) as (reader, _, peer):
                stock = asyncio.StreamReader(limit=limit)
                stock.feed_data(data)
                stock.feed_eof()
                for start in range(0, len(data), 16):
                    peer.send(data[start : start + 16])
                    await ticks(choose.randrange(3))
                peer.shutdown(socket.SHUT_WR)
                if len(data) > 2 * limit:
                    # The end is not seen before there is room again.
                    assert data == await reader.read()
                    continue
                await until(has_ended(reader))
                for name in names:
                    expected = await outcome(READS[name](stock))
                    assert expected == await outcome(READS[name](reader)), (data, names)
                    assert stock.at_eof() == reader.at_eof()
                    assert stock._buffer == reader._buffer  # type: ignore[attr-defined]

    run(main())


def has_ended(reader: asyncio.StreamReader) -> Callable[[], bool]:
    """Return the condition that a reader has been told of the end."""
    return lambda: bool(reader._eof)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["read-3", "readexactly-5", "readline", "readuntil-ab"])
def test_a_read_waits_for_what_comes_in_pieces(run: Run, name: str) -> None:
    """A read that finds too little waits for more, however it is cut."""
    expected = {
        "read-3": b"x",
        "readexactly-5": b"xa\nba",
        "readline": b"xa\n",
        "readuntil-ab": b"xa\nbab",
    }

    async def main() -> None:
        async with stream() as (reader, _, peer):
            reading = asyncio.ensure_future(READS[name](reader))
            for byte in b"xa\nbab":
                peer.send(bytes([byte]))
                await ticks(5)
            assert expected[name] == await reading

    run(main())


def test_only_one_coroutine_may_wait(run: Run) -> None:
    """A second read fails at once, and the first goes on."""

    async def main() -> None:
        async with stream() as (reader, _, peer):
            first = asyncio.ensure_future(reader.readexactly(2))
            await ticks(1)
            for name in ("read", "readline"):
                called = "readuntil" if name == "readline" else name
                message = rf"{called}\(\) called while another coroutine is already waiting"
                with pytest.raises(RuntimeError, match=message):
                    await getattr(reader, name)(*[5] * (name == "read"))
            peer.send(b"ab")
            assert b"ab" == await first

    run(main())


@pytest.mark.parametrize("has_come", [False, True])
def test_a_cancelled_read_loses_nothing(run: Run, has_come: bool) -> None:
    """What came for a read that was cancelled is there for the next one."""

    async def main() -> None:
        async with stream() as (reader, _, peer):
            reading = asyncio.ensure_future(reader.read(10))
            await ticks(1)
            waiter = reader._waiter  # type: ignore[attr-defined]
            if has_come:
                peer.send(b"data")
                waiter.add_done_callback(lambda _: reading.cancel())
            else:
                reading.cancel()
            await asyncio.wait([reading])
            assert reader._waiter is None  # type: ignore[attr-defined]
            if not has_come:
                peer.send(b"data")
            received = reading.result() if not reading.cancelled() else b""
            assert b"data" == received + (b"" if received else await reader.read(10))

    run(main())


def test_a_full_reader_pauses_its_transport(run: Run) -> None:
    """More than twice the limit pauses reading, and a read that makes room resumes it."""

    async def main() -> None:
        async with stream(limit=10) as (reader, writer, peer):
            transport: Any = writer.transport
            peer.send(b"x" * 20)
            await until(lambda: len(reader._buffer) == 20)  # type: ignore[attr-defined]
            assert transport.is_reading()
            peer.send(b"y")
            await until(lambda: not transport.is_reading())
            assert "paused" in repr(reader)
            assert b"x" * 10 == await reader.read(10)
            assert not transport.is_reading()
            assert b"x" == await reader.readexactly(1)
            assert transport.is_reading()
            peer.send(b"z" * 89)
            assert b"x" * 9 + b"y" + b"z" * 89 == await reader.readexactly(99)

    run(main())


def test_a_line_above_the_limit_fails_as_asyncio_says(run: Run) -> None:
    """`readuntil` leaves the line, `readline` drops it, and the reader can be read on."""

    async def main() -> None:
        async with stream(limit=10) as (reader, _, peer):
            peer.send(b"x" * 15 + b"\nok\n")
            with pytest.raises(asyncio.LimitOverrunError) as raised:
                await reader.readuntil()
            assert 15 == raised.value.consumed
            with pytest.raises(ValueError, match="longer than limit"):
                await reader.readline()
            assert b"ok\n" == await reader.readline()
            reader._limit = 20  # type: ignore[attr-defined]
            peer.send(b"y" * 15 + b"\n")
            assert b"y" * 15 + b"\n" == await reader.readline()

    run(main())


def test_a_reset_fails_reads_and_drains(run: Run) -> None:
    """A peer that resets the connection fails the read that waits, later ones, and `drain`."""

    async def main() -> None:
        async with stream() as (reader, writer, peer):
            reading = asyncio.ensure_future(reader.readline())
            await ticks(1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            for failing in (reading, reader.read(5), reader.readexactly(5), writer.drain()):
                with pytest.raises(ConnectionResetError):
                    await failing
            assert isinstance(reader.exception(), ConnectionResetError)

    run(main())


def test_drain_waits_for_the_peer(run: Run) -> None:
    """`drain` of a server's writer waits while too much is unsent, and fails once the writer is closed."""

    async def main() -> None:
        drained: list[str] = []

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await writer.drain()
            drained.append("at once")
            while writer.transport.get_write_buffer_size() <= 1 << 16:
                writer.write(b"x" * (1 << 20))
            await writer.drain()
            drained.append("later")
            writer.close()
            await writer.wait_closed()
            with pytest.raises(ConnectionResetError):
                await writer.drain()
            drained.append("refused")

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            with socket.create_connection(server.sockets[0].getsockname()) as peer:
                peer.setblocking(False)
                await until(lambda: bool(drained))
                await ticks(20)
                assert ["at once"] == drained
                while await asyncio.get_running_loop().sock_recv(peer, 1 << 20):
                    pass
            await until(lambda: len(drained) == 3)
        assert ["at once", "later", "refused"] == drained

    run(main())


def test_what_a_program_changes_is_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of a derived class, and a method that replaces asyncio's, get what is received."""
    fed: list[bytes] = []

    class Reader(asyncio.StreamReader):
        def feed_data(self, data: Any) -> None:
            fed.append(bytes(data))
            super().feed_data(data)

    async def main() -> None:
        async with stream(make_reader=Reader) as (reader, _, peer):
            peer.send(b"derived")
            assert b"derived" == await reader.read(10)
        original = asyncio.StreamReader.feed_data

        def replaced(self: asyncio.StreamReader, data: Any) -> None:
            fed.append(bytes(data).upper())
            original(self, data)

        monkeypatch.setattr(asyncio.StreamReader, "feed_data", replaced)
        async with stream() as (reader, _, peer):
            peer.send(b"replaced")
            assert b"replaced" == await reader.read(10)
        assert [b"derived", b"REPLACED"] == fed

    run(main())


def test_a_writer_of_another_class_stays_what_it_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that has replaced `StreamWriter` in asyncio's module is the class of new writers."""

    class Writer(asyncio.StreamWriter):
        pass

    async def main() -> None:
        monkeypatch.setattr(asyncio.streams, "StreamWriter", Writer)
        met: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(lambda _, writer: met.set_result(writer), "127.0.0.1")
        async with server:
            with socket.create_connection(server.sockets[0].getsockname()):
                writer = await met
                assert Writer is type(writer)
                writer.close()

    run(main())


def test_a_closed_transport_takes_a_protocol(run: Run) -> None:
    """Setting the protocol of a transport that is closed changes nothing else."""

    async def main() -> None:
        async with stream() as (_, writer, _peer):
            transport: Any = writer.transport
            writer.close()
            await writer.wait_closed()
            protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
            transport.set_protocol(protocol)
            assert protocol is transport.get_protocol()

    run(main())


def test_a_reader_that_is_gone_gets_nothing(run: Run) -> None:
    """A connection whose reader was freed drops what it receives, and still sees the end."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        del reader
        gc.collect()
        ended = asyncio.Event()
        protocol.eof_received = ended.set  # type: ignore[method-assign, assignment]
        with peer:
            for _ in range(10):
                peer.send(b"x" * 30_000)
                await ticks(3)
            assert transport.is_reading()
        await ended.wait()
        await until(lambda: protocol._closed.done())  # type: ignore[attr-defined]

    run(main())


def test_a_stream_becomes_tls(run: Run, contexts: Contexts) -> None:
    """A reader and a writer go on over TLS after `start_tls`."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert b"starttls\n" == await reader.readline()
            # The client's handshake must not arrive before the server expects it.
            writer.write(b"go\n")
            await writer.start_tls(contexts[0])
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"starttls\n")
            assert b"go\n" == await reader.readline()
            await writer.start_tls(contexts[1], server_hostname="127.0.0.1")
            for line in (b"one\n", b"two\n"):
                writer.write(line)
                await writer.drain()
                assert line == await reader.readline()
            writer.close()

    run(main())


def test_lines_over_a_unix_socket(run: Run, tmp_path: Path) -> None:
    """Streams of a Unix socket can be iterated by lines."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            async for line in reader:
                writer.write(line.upper())
            writer.close()

        path = tmp_path / "socket"
        async with await asyncio.start_unix_server(serve, path) as _:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.writelines([b"one\ntw", b"o\n", b"end"])
            writer.write_eof()
            assert [b"ONE\n", b"TWO\n", b"END"] == [line async for line in reader]
            writer.close()

    run(main())
