"""`sock_*`: operations on sockets that their callers own."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from typing import Any

import pytest
import threadlets

from .harness import Run, socket_pair, tcp_pair, threadlets_only, ticks


def test_data_that_is_there_is_received(run: Run) -> None:
    """A receive takes what is there, at most as much as it asked for, and b"" at the end."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            theirs.send(b"abcdef")
            assert b"abcd" == await loop.sock_recv(ours, 4)
            assert b"ef" == await loop.sock_recv(ours, 4)
            theirs.close()
            assert b"" == await loop.sock_recv(ours, 4)

    run(main())


def test_receive_waits_for_data(run: Run) -> None:
    """A receive that starts before the data arrives gets the data."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            for n in range(100):
                receive = asyncio.create_task(loop.sock_recv(ours, 100))
                await ticks(2)
                assert not receive.done()
                await loop.sock_sendall(theirs, b"%d" % n)
                assert b"%d" % n == await receive

    run(main())


@threadlets_only
def test_concurrent_receives_are_served_in_order(run: Run) -> None:
    """Concurrent receives of one socket get the data in the order in which they started."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            receives = [asyncio.create_task(loop.sock_recv(ours, 1)) for _ in range(10)]
            await ticks(2)
            theirs.send(b"01234")
            assert b"01234" == b"".join(await asyncio.gather(*receives[:5]))
            theirs.send(b"56789")
            assert b"56789" == b"".join(await asyncio.gather(*receives[5:]))

    run(main())


@threadlets_only
def test_receive_does_not_overtake_one_that_waits(run: Run) -> None:
    """A receive that starts when data is there already still queues behind older ones."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            older = asyncio.create_task(loop.sock_recv(ours, 1))
            await ticks(2)
            theirs.send(b"ab")
            newer = asyncio.create_task(loop.sock_recv(ours, 1))
            assert (b"a", b"b") == (await older, await newer)

    run(main())


@threadlets_only
def test_concurrent_sends_do_not_mix(run: Run) -> None:
    """Two large sends of one socket arrive one after the other."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        n_bytes = 1 << 20
        with socket_pair() as (ours, theirs):
            sends = [
                asyncio.create_task(loop.sock_sendall(ours, letter * n_bytes))
                for letter in (b"a", b"b")
            ]
            received = b""
            while len(received) < 2 * n_bytes:
                received += await loop.sock_recv(theirs, 1 << 18)
            await asyncio.gather(*sends)
            assert b"a" * n_bytes + b"b" * n_bytes == received

    run(main())


def test_receive_into_fills_a_buffer(run: Run) -> None:
    """`sock_recv_into` fills any writable buffer and returns the number of bytes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            buffer = bytearray(8)
            theirs.send(b"abc")
            assert 3 == await loop.sock_recv_into(ours, buffer)
            receive = asyncio.create_task(loop.sock_recv_into(ours, memoryview(buffer)[4:]))
            await ticks(2)
            theirs.send(b"xyz12")
            assert 4 == await receive
            assert b"abc\0xyz1" == buffer

    run(main())


def test_cancelled_receive_releases_its_buffer(run: Run) -> None:
    """Once a receive is cancelled its bytearray can be resized."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, _theirs):
            buffer = bytearray(8)
            receive = asyncio.create_task(loop.sock_recv_into(ours, buffer))
            await ticks(2)
            receive.cancel()
            await asyncio.wait([receive])
            buffer += b"more"

    run(main())


def test_receive_cancelled_after_its_socket_was_closed_releases_its_buffer(run: Run) -> None:
    """Closing the socket and then cancelling the receive releases the bytearray, too."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, _theirs):
            buffer = bytearray(8)
            receive = asyncio.create_task(loop.sock_recv_into(ours, buffer))
            await ticks(2)
            ours.close()
            receive.cancel()
            await asyncio.wait([receive])
            buffer += b"more"

    run(main())


def test_cancelled_send_releases_its_buffer(run: Run) -> None:
    """Once a send is cancelled its bytearray can be resized."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, _theirs):
            buffer = bytearray(1 << 22)
            send = asyncio.create_task(loop.sock_sendall(ours, buffer))
            await ticks(2)
            assert not send.done()
            send.cancel()
            await asyncio.wait([send])
            buffer += b"more"

    run(main())


def test_receive_after_a_cancelled_one_gets_all_the_data(run: Run) -> None:
    """A cancelled receive takes no data from the next one."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            for _ in range(20):
                cancelled = asyncio.create_task(loop.sock_recv(ours, 100))
                await ticks(2)
                cancelled.cancel()
                theirs.send(b"data")
                next_one = asyncio.create_task(loop.sock_recv(ours, 100))
                assert b"data" == await next_one
                assert cancelled.cancelled()

    run(main())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_send_larger_than_the_socket_buffer_is_sent_whole(run: Run, kind: type[Any]) -> None:
    """`sock_sendall` waits for room as often as needed; the bytes arrive in order."""
    data = os.urandom(5 << 20)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        with ours, theirs:
            send = asyncio.create_task(loop.sock_sendall(ours, kind(data)))
            received = bytearray()
            while len(received) < len(data):
                received += await loop.sock_recv(theirs, 1 << 18)
            await send
            assert data == received

    run(main())


def fill(sock: socket.socket) -> int:
    """Send until there is no room, and return the number of bytes."""
    n_sent = 0
    while True:
        try:
            n_sent += sock.send(bytes(65536))
        except BlockingIOError:
            return n_sent


def test_nothing_is_sent_at_once(run: Run) -> None:
    """Sending no bytes succeeds, even when there is no room."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            await loop.sock_sendall(ours, b"")
            n_sent = fill(ours)
            await loop.sock_sendall(ours, b"")
            with pytest.raises(BlockingIOError):
                ours.send(b"x")
            n_received = 0
            while n_received < n_sent:
                n_received += len(await loop.sock_recv(theirs, n_sent))
            assert n_sent == n_received

    run(main())


@threadlets_only
def test_items_of_several_bytes_are_sent_whole(run: Run) -> None:
    """`sock_sendall` counts bytes, however large the items of the buffer are."""
    numbers = array.array("I", range(1000))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            await loop.sock_sendall(ours, memoryview(numbers))
            assert numbers.tobytes() == await loop.sock_recv(theirs, 10_000)

    run(main())


def test_buffer_with_gaps_is_refused(run: Run) -> None:
    """A memoryview that is not contiguous is refused in both directions."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            gaps = memoryview(bytearray(8))[::2]
            with pytest.raises(BufferError):
                await loop.sock_sendall(ours, gaps)
            theirs.send(b"abc")
            with pytest.raises((BufferError, TypeError)):
                await loop.sock_recv_into(ours, gaps)

    run(main())


def test_read_only_buffer_is_refused(run: Run) -> None:
    """Receiving into bytes and sending text raise TypeError, and the data stays."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            theirs.send(b"abc")
            with pytest.raises(TypeError):
                await loop.sock_recv_into(ours, bytes(8))
            with pytest.raises(TypeError):
                await loop.sock_sendall(ours, "text")
            assert b"abc" == await loop.sock_recv(ours, 8)

    run(main())


def test_negative_count_is_refused(run: Run) -> None:
    """A negative number of bytes raises ValueError."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, _theirs), pytest.raises(ValueError, match="negative"):
            await loop.sock_recv(ours, -1)

    run(main())


def test_closed_socket_is_an_error(run: Run) -> None:
    """Operations on a closed socket raise OSError at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, _theirs):
            ours.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                await loop.sock_recv(ours, 1)
            with pytest.raises(OSError, match="Bad file descriptor"):
                await loop.sock_recv_into(ours, bytearray(1))
            with pytest.raises(OSError, match="Bad file descriptor"):
                await loop.sock_sendall(ours, b"x")

    run(main())


def test_send_to_a_peer_that_is_gone_is_an_error(run: Run) -> None:
    """Sending to a peer that is gone raises BrokenPipeError, without a SIGPIPE."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            theirs.close()
            with pytest.raises(BrokenPipeError):
                await loop.sock_sendall(ours, b"x")

    run(main())


def test_waiting_send_learns_that_its_peer_has_gone(run: Run) -> None:
    """A send that waits for room fails when the peer closes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            send = asyncio.create_task(loop.sock_sendall(ours, bytes(1 << 22)))
            await ticks(2)
            theirs.close()
            with pytest.raises(ConnectionError):
                await send

    run(main())


def test_reset_reaches_a_waiting_receive(run: Run) -> None:
    """A reset by the peer raises ConnectionResetError in a receive that waits."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        with ours, theirs:
            receive = asyncio.create_task(loop.sock_recv(ours, 1))
            await ticks(2)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            theirs.close()
            with pytest.raises(ConnectionResetError):
                await receive

    run(main())


@threadlets_only
def test_reused_number_belongs_to_its_new_socket(run: Run) -> None:
    """A receive left waiting on a closed socket does not block the next socket with its number."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, first_peer = socket.socketpair()
        first.setblocking(False)
        left = asyncio.create_task(loop.sock_recv(first, 1))
        await ticks(2)
        fd = first.fileno()
        spare, spare_peer = socket.socketpair()
        first.close()
        os.dup2(spare.fileno(), fd)
        second = socket.socket(fileno=fd)
        second.setblocking(False)
        receive = asyncio.create_task(loop.sock_recv(second, 10))
        await ticks(2)
        spare_peer.send(b"data")
        assert b"data" == await receive
        left.cancel()
        await asyncio.wait([left])
        for sock in (first_peer, spare, spare_peer, second):
            sock.close()

    run(main())


def test_number_reused_after_operations_can_become_a_transport(run: Run) -> None:
    """A transport gets its data on a descriptor number that operations have used before."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        numbers = []
        for n in range(3):
            ours, theirs = tcp_pair()
            numbers.append(ours.fileno())
            receive = asyncio.create_task(loop.sock_recv(ours, 1))
            await ticks(2)
            theirs.send(b"x")
            assert b"x" == await receive
            if n == 1:  # The second time the socket itself becomes a transport.
                reader, writer = await asyncio.open_connection(sock=ours)
                theirs.send(b"line\n")
                assert b"line\n" == await reader.readline()
                writer.close()
                await writer.wait_closed()
            ours.close()
            theirs.close()

    run(main())


def test_connect_and_accept(run: Run) -> None:
    """`sock_connect` and `sock_accept` make a connection; a refused connect raises."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as ours:
            listener.setblocking(False)
            ours.setblocking(False)
            accept = asyncio.create_task(loop.sock_accept(listener))
            await ticks(2)
            await loop.sock_connect(ours, listener.getsockname())
            theirs, address = await accept
            with theirs:
                assert ours.getsockname() == address
                await loop.sock_sendall(ours, b"hello")
                assert b"hello" == await loop.sock_recv(theirs, 10)
            address = listener.getsockname()
        with socket.socket() as ours:
            ours.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await loop.sock_connect(ours, address)

    run(main())


def test_datagrams(run: Run) -> None:
    """`sock_sendto`, `sock_recvfrom` and `sock_recvfrom_into` carry datagrams and addresses."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with (
            socket.socket(type=socket.SOCK_DGRAM) as ours,
            socket.socket(type=socket.SOCK_DGRAM) as theirs,
        ):
            for sock in (ours, theirs):
                sock.setblocking(False)
                sock.bind(("127.0.0.1", 0))
            receive = asyncio.create_task(loop.sock_recvfrom(theirs, 100))
            await ticks(2)
            assert 5 == await loop.sock_sendto(ours, b"first", theirs.getsockname())
            assert (b"first", ours.getsockname()) == await receive
            await loop.sock_sendto(ours, b"second", theirs.getsockname())
            buffer = bytearray(100)
            outcome = await loop.sock_recvfrom_into(theirs, buffer)
            assert (6, ours.getsockname()) == outcome
            assert b"second" == buffer[:6]

    run(main())


def test_transports_socket_is_refused(run: Run) -> None:
    """An operation on the socket of a transport raises RuntimeError."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        with theirs:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            with pytest.raises(RuntimeError, match="used by transport"):
                await loop.sock_recv(ours, 1)
            transport.abort()
            await ticks(2)

    run(main())


def test_blocking_socket_is_refused_in_debug_mode(run: Run) -> None:
    """Debug mode refuses a blocking socket with ValueError."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        with socket_pair() as (ours, _theirs):
            ours.setblocking(True)
            with pytest.raises(ValueError, match="non-blocking"):
                await loop.sock_recv(ours, 1)

    run(main())


def test_reader_and_operations_share_a_socket_in_turn(run: Run) -> None:
    """A reader may watch a socket after operations on it, and the other way round."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            for _ in range(3):
                receive = asyncio.create_task(loop.sock_recv(ours, 1))
                await ticks(2)
                theirs.send(b"x")
                assert b"x" == await receive
                called = asyncio.Event()

                def read(event: asyncio.Event = called) -> None:
                    ours.recv(1)
                    event.set()

                loop.add_reader(ours, read)
                theirs.send(b"y")
                await called.wait()
                loop.remove_reader(ours)

    run(main())


@threadlets_only
def test_ledger_counts_a_socket_only_while_a_task_waits(run: Run) -> None:
    """The ledger does not count a socket whose operations have ended, open or closed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = threadlets.ledger().descriptors
        with socket_pair() as (ours, theirs):
            receive = asyncio.create_task(loop.sock_recv(ours, 1))
            await ticks(2)
            assert before + 1 == threadlets.ledger().descriptors
            theirs.send(b"x")
            await receive
            assert before == threadlets.ledger().descriptors
        assert before == threadlets.ledger().descriptors

    run(main())
