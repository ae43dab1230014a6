"""Writes to a transport arrive whole and in order, no faster than the peer reads."""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
import sys
from typing import Any

import pytest

from .harness import Connection, LoopFactory, Recorder, Run, connected, threadlets_only, ticks

LARGE = 4 << 20


def test_ten_megabytes_go_both_ways(run: Run) -> None:
    """An echo of 10 MB through a server comes back byte for byte."""
    data = os.urandom(10_000_000)

    async def main() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while received := await reader.read(1 << 18):
                writer.write(received)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

            async def send() -> None:
                for start in range(0, len(data), 100_000):
                    writer.write(data[start : start + 100_000])
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            received = await reader.read(-1)
            await sending
            writer.close()
            await writer.wait_closed()
        assert data == received

    run(main())


def test_writes_arrive_in_order(run: Run) -> None:
    """Many small writes arrive in order, whether or not the socket has room."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            parts = [b"%d," % n * (n % 400) for n in range(4000)]
            for part in parts:
                connection.transport.write(part)
            connection.transport.close()
            assert b"".join(parts) == await connection.take_all()

    run(main())


@threadlets_only  # Since 3.12 the stock loop keeps a view of the buffer, and sends changes, too.
@pytest.mark.parametrize("kind", [bytearray, lambda data: memoryview(bytearray(data))])
@pytest.mark.parametrize("method", ["write", "writelines"])
def test_buffer_may_be_changed_after_write_returns(run: Run, kind: Any, method: str) -> None:
    """A mutable buffer may be changed once `write` has returned, sent or not."""
    data = os.urandom(LARGE)

    async def main() -> None:
        async with connected(Recorder) as connection:
            buffer = kind(data)
            if method == "write":
                connection.transport.write(buffer)
            else:
                connection.transport.writelines([b"", buffer])
            assert connection.transport.get_write_buffer_size() > 0
            buffer[:] = bytes(LARGE)
            if isinstance(buffer, bytearray):
                buffer.clear()
            connection.transport.close()
            assert data == await connection.take_all()

    run(main())


@threadlets_only
def test_memoryview_with_gaps_is_sent(run: Run) -> None:
    """A memoryview with gaps, or with items of several bytes, is sent as its bytes."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.write(memoryview(b"a-b-c-")[::2])
            connection.transport.write(memoryview(array.array("H", [0x4141, 0x4242])))
            assert b"abcAABB" == await connection.take(7)

    run(main())


def test_lines_are_written_as_one(run: Run) -> None:
    """`writelines` takes any iterable of bytes-like objects, also an empty one."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.writelines([])
            connection.transport.writelines([b"one ", bytearray(b"two "), memoryview(b"three")])
            connection.transport.writelines(b"%d" % n for n in range(5))
            assert b"one two three01234" == await connection.take(18)

    run(main())


def test_more_lines_than_one_system_call_takes(run: Run) -> None:
    """Thousands of chunks are queued and arrive in order."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.write(bytes(LARGE))
            lines = [b"%d\n" % n for n in range(5000)]
            connection.transport.writelines(lines)
            connection.transport.close()
            assert bytes(LARGE) + b"".join(lines) == await connection.take_all()

    run(main())


def test_what_is_not_bytes_like_is_refused(run: Run) -> None:
    """Text and numbers raise TypeError, and the connection goes on."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            for wrong in ("text", 5, None, [b"x"]):
                with pytest.raises(TypeError):
                    connection.transport.write(wrong)
            connection.transport.write(b"fine")
            assert b"fine" == await connection.take(4)

    run(main())


def test_lines_that_are_not_bytes_like_are_refused(run: Run, loop_factory: LoopFactory) -> None:
    """If one line is refused none is sent, and the connection goes on."""
    if loop_factory is asyncio.SelectorEventLoop and sys.version_info >= (3, 15):
        pytest.skip("asyncio keeps the lines before the wrong one, and sends nothing more")

    async def main() -> None:
        async with connected(Recorder) as connection:
            with pytest.raises(TypeError):
                connection.transport.writelines([b"a", "text"])
            connection.transport.write(b"fine")
            assert b"fine" == await connection.take(4)

    run(main())


def test_writing_is_paused_and_resumed_exactly_once(run: Run) -> None:
    """Writing pauses once above the high water mark, and resumes once below the low one."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            transport, protocol = connection.transport, connection.protocol
            for _ in range(10):
                transport.write(bytes(LARGE))
            await ticks(3)
            assert ["made", "pause"] == protocol.calls
            await connection.take(10 * LARGE)
            await protocol.until(lambda: "resume" in protocol.calls)
            assert ["made", "pause", "resume"] == protocol.calls
            await ticks(3)
            transport.write(bytes(LARGE))
            await connection.take(LARGE)
            await protocol.until(lambda: protocol.calls.count("resume") == 2)
            assert ["made", "pause", "resume", "pause", "resume"] == protocol.calls

    run(main())


def test_water_marks_can_be_set(run: Run) -> None:
    """The water marks follow asyncio's rules; a high mark below what is unsent pauses writing."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            transport, protocol = connection.transport, connection.protocol
            assert (16384, 65536) == transport.get_write_buffer_limits()
            transport.set_write_buffer_limits(high=1000)
            assert (250, 1000) == transport.get_write_buffer_limits()
            transport.set_write_buffer_limits(low=1000)
            assert (1000, 4000) == transport.get_write_buffer_limits()
            with pytest.raises(ValueError, match="high"):
                transport.set_write_buffer_limits(high=1, low=2)
            with pytest.raises(ValueError, match="high"):
                transport.set_write_buffer_limits(low=-1)
            transport.set_write_buffer_limits(high=2 * LARGE)
            transport.write(bytes(LARGE))
            assert "pause" not in protocol.calls
            transport.set_write_buffer_limits(high=0)
            assert ["made", "pause"] == protocol.calls
            await connection.take(LARGE)
            await protocol.until(lambda: "resume" in protocol.calls)
            assert 0 == transport.get_write_buffer_size()

    run(main())


def test_protocol_may_write_when_it_is_resumed(run: Run) -> None:
    """Data written inside `resume_writing` arrives after what was unsent."""

    class Resumer(Recorder):
        def resume_writing(self) -> None:
            super().resume_writing()
            if self.calls.count("resume") == 1:
                self.transport.write(b"tail")

    async def main() -> None:
        async with connected(Resumer) as connection:
            connection.transport.write(bytes(LARGE))
            received = await connection.take(LARGE + 4)
            assert b"tail" == received[-4:]

    run(main())


def test_drain_waits_for_the_peer(run: Run) -> None:
    """`StreamWriter.drain` returns only once the peer has read enough."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair()
        peer.setblocking(False)
        _, writer = await asyncio.open_connection(sock=ours)
        writer.write(bytes(LARGE))
        drain = asyncio.create_task(writer.drain())
        await ticks(5)
        assert not drain.done()
        n_received = 0
        while n_received < LARGE:
            n_received += len(await loop.sock_recv(peer, 1 << 18))
        await drain
        writer.close()
        peer.close()
        await writer.wait_closed()

    run(main())


def test_writes_after_the_loss_are_dropped_and_then_warned_of(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """Writing to a lost connection raises nothing; from the fifth time on it is logged."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.abort()
            await connection.protocol.lost.wait()
            for _ in range(4):
                connection.transport.write(b"lost")
            assert not caplog.records
            for _ in range(4):
                connection.transport.write(b"lost")
            assert caplog.records

    with caplog.at_level(logging.WARNING, logger="asyncio"):
        run(main())
    assert {"socket.send() raised exception."} == {it.getMessage() for it in caplog.records}


def test_writes_between_abort_and_loss_are_dropped(run: Run) -> None:
    """Data written after `abort` never arrives."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.write(b"sent")
            connection.transport.abort()
            connection.transport.write(b"lost")
            connection.transport.writelines([b"lost"])
            assert b"sent" == await connection.take_all()

    run(main())


def test_write_error_is_the_loss(run: Run) -> None:
    """A write to a peer that is gone does not raise; the connection is lost once, with the error."""

    class Deaf(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    async def main() -> None:
        async with connected(Deaf) as connection:
            connection.peer.close()
            connection.transport.write(b"x")
            connection.transport.write(b"x")
            await connection.protocol.lost.wait()
            assert isinstance(connection.protocol.error, BrokenPipeError)
            assert 1 == connection.protocol.calls.count("lost")

    run(main())


def test_queued_data_of_a_reset_connection_is_given_up(run: Run) -> None:
    """A reset while data is queued loses the connection with a ConnectionError."""

    async def main() -> None:
        async with connected(Recorder, tcp=True) as connection:
            connection.transport.write(bytes(2 * LARGE))
            linger = b"\1\0\0\0\0\0\0\0"
            connection.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.peer.close()
            await connection.protocol.lost.wait()
            assert isinstance(connection.protocol.error, ConnectionError)
            assert 0 == connection.transport.get_write_buffer_size()

    run(main())


def test_protocol_that_writes_at_once_is_heard(run: Run) -> None:
    """Data written in `connection_made` is sent, even if it is more than there is room for."""

    class Eager(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(bytes(LARGE))
            transport.close()

    async def main() -> None:
        async with connected(Eager) as connection:
            connection_: Connection[Eager] = connection
            assert bytes(LARGE) == await connection_.take_all()

    run(main())
