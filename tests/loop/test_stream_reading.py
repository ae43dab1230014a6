"""A transport reads everything, in order, and nothing while it is paused."""

from __future__ import annotations

import array
import asyncio
import functools
import os
import socket
from contextvars import ContextVar
from typing import Any

from .harness import DEADLINE_S, Recorder, Run, connected, tcp_pair, ticks


class Buffered(Recorder, asyncio.BufferedProtocol):
    """A recorder that lends a buffer of its own."""

    n_bytes = 7

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray(self.n_bytes)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self.buffer[:nbytes]
        self.note("data")

    def data_received(self, data: bytes) -> None:
        raise AssertionError("data_received was called on a buffered protocol")


def test_data_and_end_arrive_in_order(run: Run) -> None:
    """Data comes before the end of the stream, and that before the loss."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.peer.send(b"data")
            connection.peer.close()
            await connection.protocol.lost.wait()
            assert ["made", "data", "end", "lost"] == connection.protocol.calls
            assert b"data" == connection.protocol.received
            assert connection.protocol.error is None

    run(main())


def test_data_that_came_before_the_transport_is_received(run: Run) -> None:
    """Data that arrived before the transport was made is delivered after `connection_made`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, peer = tcp_pair()
        peer.send(b"early")
        peer.close()
        _, protocol = await loop.create_connection(Recorder, sock=ours)
        await protocol.lost.wait()
        assert ["made", "data", "end", "lost"] == protocol.calls
        assert b"early" == protocol.received

    run(main())


def test_more_than_one_receive_takes_is_received(run: Run) -> None:
    """Megabytes that arrive at once are delivered in pieces, and none is lost."""
    data = os.urandom(3 << 20)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder, tcp=True) as connection:
            await loop.sock_sendall(connection.peer, data)
            connection.peer.close()
            await connection.protocol.lost.wait()
            assert data == connection.protocol.received

    run(main())


def test_busy_connection_does_not_starve_others(run: Run) -> None:
    """While one peer sends without end, callbacks and other connections still run."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder) as busy, connected(Recorder) as quiet:

            async def flood() -> None:
                while True:
                    await loop.sock_sendall(busy.peer, bytes(1 << 18))

            flooding = asyncio.create_task(flood())
            await busy.protocol.receive(1 << 20)
            quiet.peer.send(b"data")
            assert b"data" == await quiet.protocol.receive(4)
            flooding.cancel()
            await asyncio.wait([flooding])

    run(main())


def test_paused_transport_receives_nothing_until_it_resumes(run: Run) -> None:
    """Data and end that arrive meanwhile are delivered after `resume_reading`, in order."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            transport, protocol = connection.transport, connection.protocol
            assert transport.is_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            connection.peer.send(b"data")
            connection.peer.close()
            await ticks(5)
            assert ["made"] == protocol.calls
            transport.resume_reading()
            assert transport.is_reading()
            await protocol.lost.wait()
            assert ["made", "data", "end", "lost"] == protocol.calls
            assert b"data" == protocol.received

    run(main())


def test_pausing_and_resuming_twice_does_nothing(run: Run) -> None:
    """`pause_reading` and `resume_reading` are idempotent."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            for _ in range(2):
                connection.transport.pause_reading()
                connection.transport.pause_reading()
                connection.transport.resume_reading()
                connection.transport.resume_reading()
            connection.peer.send(b"data")
            assert b"data" == await connection.protocol.receive(4)

    run(main())


def test_protocol_that_pauses_after_each_piece_gets_them_all(run: Run) -> None:
    """A protocol that pauses on each piece and resumes later loses nothing, not even the end."""

    class Hesitant(Buffered):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    data = os.urandom(1000)

    async def main() -> None:
        async with connected(Hesitant) as connection:
            connection.peer.send(data)
            connection.peer.close()
            await connection.protocol.lost.wait()
            assert data == connection.protocol.received
            assert ["end", "lost"] == connection.protocol.calls[-2:]

    run(main())


def test_paused_in_connection_made_stays_paused(run: Run) -> None:
    """A protocol that pauses in `connection_made` gets no data until it resumes."""

    class Deaf(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.pause_reading()

    async def main() -> None:
        async with connected(Deaf) as connection:
            connection.peer.send(b"data")
            await ticks(5)
            assert b"" == connection.protocol.received
            connection.transport.resume_reading()
            assert b"data" == await connection.protocol.receive(4)

    run(main())


def test_buffered_protocol_is_filled_piece_by_piece(run: Run) -> None:
    """A small buffer is filled again and again until all data and the end have arrived."""
    data = os.urandom(10_000)

    async def main() -> None:
        async with connected(Buffered) as connection:
            connection.peer.send(data)
            connection.peer.close()
            await connection.protocol.lost.wait()
            assert data == connection.protocol.received
            assert ["end", "lost"] == connection.protocol.calls[-2:]

    run(main())


def test_buffered_protocol_may_resize_its_buffer_when_updated(run: Run) -> None:
    """A protocol may resize its buffer in `buffer_updated`: nothing holds it any more."""

    class Growing(Buffered):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            self.buffer.extend(bytes(nbytes))

    async def main() -> None:
        async with connected(Growing) as connection:
            connection.peer.send(bytes(1000))
            await connection.protocol.receive(1000)
            # An error would end the connection.
            assert "lost" not in connection.protocol.calls
            assert Growing.n_bytes + 1000 == len(connection.protocol.buffer)

    run(main())


def test_buffer_of_any_kind_is_filled(run: Run) -> None:
    """`get_buffer` may return a memoryview or an array instead of a bytearray."""

    class Viewed(Buffered):
        def get_buffer(self, sizehint: int) -> Any:
            return memoryview(self.buffer)[1:4]

        def buffer_updated(self, nbytes: int) -> None:
            self.received += self.buffer[1 : 1 + nbytes]
            self.note("data")

    class Arrayed(Buffered):
        def __init__(self) -> None:
            super().__init__()
            self.numbers = array.array("B", bytes(5))

        def get_buffer(self, sizehint: int) -> Any:
            return self.numbers

        def buffer_updated(self, nbytes: int) -> None:
            self.received += self.numbers.tobytes()[:nbytes]
            self.note("data")

    async def main() -> None:
        for make in (Viewed, Arrayed):
            async with connected(make) as connection:
                connection.peer.send(b"abcdefgh")
                assert b"abcdefgh" == await connection.protocol.receive(8)

    run(main())


def test_protocol_can_be_changed_in_mid_stream(run: Run) -> None:
    """Data that arrives after `set_protocol` goes to the new protocol, buffered or not."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            transport, first = connection.transport, connection.protocol
            connection.peer.send(b"first")
            await first.receive(5)
            second, third = Buffered(), Recorder()
            transport.set_protocol(second)
            assert second is transport.get_protocol()
            connection.peer.send(b"the second")
            await second.receive(10)
            transport.set_protocol(third)
            connection.peer.send(b"third")
            await third.receive(5)
            connection.peer.close()
            await third.lost.wait()
            assert (b"first", b"the second", b"third") == (
                bytes(first.received),
                bytes(second.received),
                bytes(third.received),
            )
            assert ["data", "end", "lost"] == third.calls
            assert ["made", "data"] == first.calls

    run(main())


def test_protocol_can_hand_over_while_it_receives(run: Run) -> None:
    """A protocol that sets another one while it receives gets nothing more."""
    successor: list[Recorder] = []

    class Header(Buffered):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            successor.append(Recorder())
            self.transport.set_protocol(successor[0])

    async def main() -> None:
        async with connected(Header) as connection:
            connection.peer.send(b"7 bytesand the rest")
            await connection.protocol.receive(7)
            assert b"and the rest" == await successor[0].receive(12)
            assert b"7 bytes" == connection.protocol.received

    run(main())


def test_protocol_is_called_in_the_context_of_its_connection(run: Run) -> None:
    """A protocol sees the context variables of the moment when the connection was made."""
    var: ContextVar[str] = ContextVar("var", default="default")

    class Looking(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def data_received(self, data: bytes) -> None:
            self.seen.append(var.get())
            var.set("of the connection")
            super().data_received(data)

    def more(protocol: Looking, n_calls: int) -> bool:
        return len(protocol.seen) > n_calls

    async def main() -> None:
        var.set("before")
        async with connected(Looking) as one, connected(Looking) as two:
            var.set("after")
            for _ in range(2):
                for connection in (one, two):
                    n_calls = len(connection.protocol.seen)
                    connection.peer.send(b"x")
                    await connection.protocol.until(
                        functools.partial(more, connection.protocol, n_calls)
                    )
            assert ["before", "of the connection"] == one.protocol.seen == two.protocol.seen
            assert "after" == var.get()

    run(main())


def test_urgent_data_does_not_hold_up_what_follows(run: Run) -> None:
    """A receive that stops at TCP's urgent mark is not taken for the last one."""

    async def main() -> None:
        async with connected(Recorder, tcp=True) as connection:
            connection.transport.pause_reading()
            connection.peer.send(b"before")
            connection.peer.send(b"!", socket.MSG_OOB)
            connection.peer.send(b"after")
            await ticks(3)
            connection.transport.resume_reading()
            async with asyncio.timeout(DEADLINE_S / 5):
                assert b"beforeafter" == await connection.protocol.receive(11)

    run(main())


def test_passed_descriptors_do_not_hold_up_what_follows(run: Run) -> None:
    """A receive that stops behind a message with descriptors is not taken for the last one."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.pause_reading()
            socket.send_fds(connection.peer, [b"with, "], [connection.peer.fileno()])
            connection.peer.send(b"without")
            await ticks(3)
            connection.transport.resume_reading()
            async with asyncio.timeout(DEADLINE_S / 5):
                assert b"with, without" == await connection.protocol.receive(13)

    run(main())


def test_stream_is_read_once_a_tick(run: Run) -> None:
    """A stream is read once in a tick, however much arrives and however often it becomes ready."""

    class Echo(asyncio.Protocol):
        def __init__(self) -> None:
            self.ticks_of_reads: list[int] = []
            self.tick = 0
            self.done = asyncio.Event()

        def data_received(self, data: bytes) -> None:
            self.ticks_of_reads.append(self.tick)
            if len(self.ticks_of_reads) < 20:
                peer.send(data)  # The stream is ready again before this read is over.
            else:
                self.done.set()

        def count(self) -> None:
            self.tick += 1
            if not self.done.is_set():
                asyncio.get_running_loop().call_soon(self.count)

    async def main() -> None:
        nonlocal peer
        async with connected(Echo) as connection:
            peer, protocol = connection.peer, connection.protocol
            protocol.count()
            peer.send(b"data")
            await protocol.done.wait()
            assert sorted(set(protocol.ticks_of_reads)) == protocol.ticks_of_reads

    peer: Any = None
    run(main())
