"""Ending a connection: half-closes, closes that flush, aborts."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import socket
import warnings
from typing import Any

import pytest

from .harness import Recorder, Run, connected, threadlets_only, ticks

LARGE = 4 << 20

keeps_open = functools.partial(Recorder, keeps_open=True)


def test_close_sends_everything_first(run: Run) -> None:
    """`close` sends what is unsent, then calls `connection_lost` without an error."""
    data = os.urandom(LARGE)

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.write(data)
            connection.transport.close()
            assert connection.transport.is_closing()
            assert not connection.protocol.lost.is_set()
            assert data == await connection.take_all()
            await connection.protocol.lost.wait()
            assert connection.protocol.error is None

    run(main())


def test_writes_while_closing_are_sent(run: Run) -> None:
    """A closing transport takes more data as long as older data is unsent."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.write(bytes(LARGE))
            connection.transport.close()
            connection.transport.write(b"tail")
            assert bytes(LARGE) + b"tail" == await connection.take_all()

    run(main())


def test_closing_transport_receives_nothing(run: Run) -> None:
    """After `close` no data reaches the protocol, even if some has arrived."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.write(bytes(LARGE))
            connection.peer.send(b"ignored")
            connection.transport.close()
            connection.transport.resume_reading()
            await connection.take(LARGE)
            await connection.protocol.lost.wait()
            assert b"" == connection.protocol.received

    run(main())


def test_loss_is_told_in_a_later_tick_and_once(run: Run) -> None:
    """`connection_lost` is called in a later tick, and once, however often `close` is called."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            for _ in range(2):
                connection.transport.close()
                connection.transport.abort()
            assert not connection.protocol.lost.is_set()
            await connection.protocol.lost.wait()
            connection.transport.close()
            connection.transport.abort()
            await ticks(3)
            assert ["made", "lost"] == connection.protocol.calls

    run(main())


def test_abort_drops_what_is_unsent(run: Run) -> None:
    """`abort` ends the connection at once, and the peer receives less than was written."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.write(bytes(LARGE))
            connection.transport.abort()
            await connection.protocol.lost.wait()
            assert connection.protocol.error is None
            assert 0 == connection.transport.get_write_buffer_size()
            assert len(await connection.take_all()) < LARGE

    run(main())


def test_abort_ends_a_close_that_waits_for_the_peer(run: Run) -> None:
    """A closing transport with unsent data can be aborted."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.write(bytes(LARGE))
            connection.transport.close()
            await ticks(3)
            assert not connection.protocol.lost.is_set()
            connection.transport.abort()
            await connection.protocol.lost.wait()
            assert ["made", "pause", "lost"] == connection.protocol.calls

    run(main())


def test_writing_half_ends_after_the_data(run: Run) -> None:
    """`write_eof` sends everything, then the end of the stream; the other direction stays open."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder) as connection:
            assert connection.transport.can_write_eof()
            connection.transport.write(bytes(LARGE))
            connection.transport.write_eof()
            connection.transport.write_eof()
            with pytest.raises(RuntimeError, match="after write_eof"):
                connection.transport.write(b"more")
            assert bytes(LARGE) == await connection.take_all()
            await loop.sock_sendall(connection.peer, b"answer")
            assert b"answer" == await connection.protocol.receive(6)
            assert not connection.protocol.lost.is_set()

    run(main())


def test_writing_half_without_data_ends_at_once(run: Run) -> None:
    """`write_eof` with nothing unsent ends the stream at once."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.write_eof()
            assert b"" == await connection.take_all()
            connection.peer.send(b"answer")
            assert b"answer" == await connection.protocol.receive(6)

    run(main())


def test_peers_end_closes_unless_the_protocol_keeps_open(run: Run) -> None:
    """A false `eof_received` closes the transport, a true one lets the protocol write on."""

    async def main() -> None:
        async with connected(Recorder) as closing, connected(keeps_open) as open_:
            for connection in (closing, open_):
                connection.peer.shutdown(socket.SHUT_WR)
                await connection.protocol.ended.wait()
            await closing.protocol.lost.wait()
            await ticks(3)
            assert not open_.transport.is_closing()
            open_.transport.write(bytes(LARGE))
            open_.transport.close()
            assert bytes(LARGE) == await open_.take_all()
            await open_.protocol.lost.wait()
            assert 1 == open_.protocol.calls.count("end")

    run(main())


def test_peers_end_while_data_is_unsent_still_sends_it(run: Run) -> None:
    """A peer that has ended its half gets everything that was written before."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.write(bytes(LARGE))
            connection.peer.shutdown(socket.SHUT_WR)
            assert bytes(LARGE) == await connection.take_all()
            await connection.protocol.lost.wait()
            assert connection.protocol.error is None

    run(main())


def test_paused_transport_that_is_closed_ends(run: Run) -> None:
    """Closing does not wait for reading to resume."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            connection.transport.pause_reading()
            connection.transport.close()
            await connection.protocol.lost.wait()
            assert b"" == await connection.take_all()

    run(main())


def test_reset_is_the_loss(run: Run) -> None:
    """A peer that resets ends the connection with ConnectionResetError."""

    async def main() -> None:
        async with connected(Recorder, tcp=True) as connection:
            linger = b"\1\0\0\0\0\0\0\0"
            connection.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.peer.close()
            await connection.protocol.lost.wait()
            assert isinstance(connection.protocol.error, ConnectionResetError)
            assert "end" not in connection.protocol.calls

    run(main())


@pytest.mark.parametrize("method", ["close", "abort"])
def test_protocol_may_end_the_connection_at_once(run: Run, method: str) -> None:
    """A protocol that ends the connection in `connection_made` gets `connection_lost`."""

    class Unwilling(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            getattr(transport, method)()

    async def main() -> None:
        async with connected(Unwilling) as connection:
            await connection.protocol.lost.wait()
            assert ["made", "lost"] == connection.protocol.calls

    run(main())


@pytest.mark.parametrize("method", ["close", "abort"])
def test_protocol_may_end_the_connection_when_data_comes(run: Run, method: str) -> None:
    """A protocol that ends the connection in `buffer_updated` gets no more data."""

    class OneByte(Recorder, asyncio.BufferedProtocol):
        def __init__(self) -> None:
            super().__init__()
            self.buffer = bytearray(1)

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.note("data")
            getattr(self.transport, method)()

    async def main() -> None:
        async with connected(OneByte) as connection:
            connection.peer.send(b"data")
            await connection.protocol.lost.wait()
            await ticks(3)
            assert ["made", "data", "lost"] == connection.protocol.calls

    run(main())


def test_transport_tells_about_its_socket(run: Run) -> None:
    """`get_extra_info` returns the socket and both addresses, also after the loss."""

    async def main() -> None:
        async with connected(Recorder, tcp=True) as connection:
            transport = connection.transport
            assert transport.get_extra_info("peername") == connection.peer.getsockname()
            assert transport.get_extra_info("sockname") == connection.peer.getpeername()
            assert transport.get_extra_info("socket").fileno() >= 0
            assert 5 == transport.get_extra_info("nothing", 5)
            assert transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY
            )
            transport.abort()
            await connection.protocol.lost.wait()
            assert transport.get_extra_info("peername") is not None
            assert -1 == transport.get_extra_info("socket").fileno()

    run(main())


@threadlets_only
def test_repr_tells_the_state(run: Run) -> None:
    """A transport's repr says whether it is open, closing or closed, and how much is unsent."""

    async def main() -> None:
        async with connected(Recorder) as connection:
            transport = connection.transport
            await ticks(1)
            assert "read=polling" in repr(transport)
            transport.write(bytes(LARGE))
            assert f"bufsize={transport.get_write_buffer_size()}" in repr(transport)
            transport.close()
            assert "closing" in repr(transport)
            transport.abort()
            await connection.protocol.lost.wait()
            await ticks(1)
            assert "closed" in repr(transport)

    run(main())


def test_unclosed_transport_is_warned_of(loop: asyncio.AbstractEventLoop) -> None:
    """A transport that is still open when its loop is closed gives a ResourceWarning."""
    ours, peer = socket.socketpair()
    with peer:
        transport, _ = loop.run_until_complete(loop.create_connection(Recorder, sock=ours))
        del ours
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop.close()
            del transport, _
            gc.collect()
        messages = [str(it.message) for it in caught if it.category is ResourceWarning]
        assert any("unclosed transport" in message for message in messages)
        assert b"" == peer.recv(1)


def test_private_attributes_are_as_asyncio_has_them(run: Run) -> None:
    """Programs read a connection's pauses, its ends, and what is unsent."""

    def state(transport: Any) -> tuple[Any, ...]:
        # From CPython 3.12 on, what is unsent is a list of chunks.
        unsent = transport._buffer
        unsent = bytes(unsent) if isinstance(unsent, bytearray) else b"".join(map(bytes, unsent))
        return (
            transport._paused,
            transport._closing,
            transport._conn_lost,
            transport._eof,
            len(unsent),
            unsent[-1:],
            transport._protocol_paused,
        )

    async def main() -> None:
        async with connected(Recorder) as connection:
            transport = connection.transport
            fd = transport.get_extra_info("socket").fileno()
            assert (fd, fd) == (transport._sock.fileno(), transport._sock_fd)
            assert connection.protocol is transport._protocol
            assert asyncio.get_running_loop() is transport._loop
            assert (None, True) == (transport._server, transport._protocol_connected)
            assert (64 * 1024, 16 * 1024) == (transport._high_water, transport._low_water)
            assert {"socket", "sockname"} <= transport._extra.keys()
            assert (False, False, 0, False, 0, b"", False) == state(transport)

            transport.pause_reading()
            assert transport._paused
            transport.resume_reading()
            assert not transport._paused

            transport.write(bytes(4 << 20) + b"x")
            n_unsent = transport.get_write_buffer_size()
            assert n_unsent > 0
            transport.write_eof()
            assert (False, False, 0, True, n_unsent, b"x", True) == state(transport)
            transport.close()
            assert (True, 0, n_unsent) == state(transport)[1:3] + state(transport)[4:5]
            transport.abort()
            assert (True, 1) == state(transport)[1:3]
            await connection.protocol.lost.wait()
            await ticks(1)
            assert (None, None, None) == (transport._sock, transport._loop, transport._protocol)

    run(main())


def test_server_has_the_private_attributes_of_asyncios(run: Run) -> None:
    """The server is an instance of asyncio's own class."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server: Any = await loop.create_server(Recorder, "127.0.0.1", 0)
        async with server:
            assert (1, True) == (len(server._sockets), server._serving)
            assert loop is server._loop
            assert isinstance(server._waiters, list)
        assert server._sockets is None

    run(main())
