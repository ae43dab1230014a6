"""Readers and writers are called for as long as their descriptor is ready."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import weakref
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from .harness import (
    Recorder,
    Run,
    connected,
    pipe,
    socket_pair,
    tcp_pair,
    threadlets_only,
    ticks,
)


def test_reader_is_called_until_it_has_taken_everything(run: Run) -> None:
    """A reader that takes one byte per call is called once per byte, without new data."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reading, writing):
            taken: list[bytes] = []
            all_taken = asyncio.Event()

            def read() -> None:
                taken.append(os.read(reading, 1))
                if len(taken) == 5:
                    all_taken.set()

            os.write(writing, b"abcde")
            loop.add_reader(reading, read)
            await all_taken.wait()
            await ticks(3)
            assert [b"a", b"b", b"c", b"d", b"e"] == taken
            assert loop.remove_reader(reading)

    run(main())


def test_reader_is_called_again_for_an_end_it_ignores(run: Run) -> None:
    """A reader that ignores an end of file is called again in every tick."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reading, writing):
            n_calls = 0

            def ignore() -> None:
                nonlocal n_calls
                n_calls += 1

            loop.add_reader(reading, ignore)
            os.close(writing)
            await ticks(2)
            n_before = n_calls
            for number in range(1, 11):
                await ticks(1)
                assert n_calls == n_before + number
            loop.remove_reader(reading)

    run(main())


def test_writer_is_called_while_there_is_room(run: Run) -> None:
    """A writer is called tick after tick, not while the pipe is full, and again afterwards."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reading, writing):
            n_written = 0
            full, resumed = asyncio.Event(), asyncio.Event()

            def write() -> None:
                nonlocal n_written
                if full.is_set():
                    resumed.set()
                try:
                    n_written += os.write(writing, bytes(4096))
                except BlockingIOError:
                    full.set()

            loop.add_writer(writing, write)
            while n_written < 65536:
                await ticks(1)
            await ticks(2)
            full.set()
            assert not resumed.is_set()
            os.read(reading, 65536)
            await resumed.wait()
            loop.remove_writer(writing)

    run(main())


def test_reader_and_writer_of_one_socket_go_separately(run: Run) -> None:
    """Both directions of a socket can be watched; removing one leaves the other."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            readable, writable = asyncio.Event(), asyncio.Event()

            def read() -> None:
                ours.recv(100)
                readable.set()

            loop.add_reader(ours, read)
            loop.add_writer(ours, writable.set)
            await writable.wait()
            assert not readable.is_set()
            assert loop.remove_writer(ours)
            assert not loop.remove_writer(ours)
            theirs.send(b"x")
            await readable.wait()
            writable.clear()
            await ticks(3)
            assert not writable.is_set()
            assert loop.remove_reader(ours)
            assert not loop.remove_reader(ours)

    run(main())


def test_second_reader_replaces_the_first(run: Run) -> None:
    """A descriptor has one reader: the last one that was added."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reading, writing):
            called: asyncio.Future[str] = loop.create_future()

            def call(name: str) -> None:
                os.read(reading, 100)
                called.set_result(name)

            loop.add_reader(reading, call, "first")
            loop.add_reader(reading, call, "second")
            os.write(writing, b"x")
            assert "second" == await called
            loop.remove_reader(reading)

    run(main())


def test_reader_removed_while_its_call_is_queued_is_not_called(run: Run) -> None:
    """Of two readers ready in one tick, the first removes the second, which is not called."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (one, one_w), pipe() as (two, two_w):
            called: list[int] = []

            def read(fd: int) -> None:
                called.append(fd)
                loop.remove_reader(one)
                loop.remove_reader(two)

            loop.add_reader(one, read, one)
            loop.add_reader(two, read, two)
            await ticks(2)
            os.write(one_w, b"x")
            os.write(two_w, b"x")
            await ticks(5)
            assert 1 == len(called)

    run(main())


def test_reader_added_after_the_data_is_called(run: Run) -> None:
    """A reader is called for data that arrived before it was added, also when it is added again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reading, writing):
            os.write(writing, b"x")
            for _ in range(3):
                called = asyncio.Event()
                loop.add_reader(reading, called.set)
                await called.wait()
                loop.remove_reader(reading)

    run(main())


def test_regular_file_is_refused(run: Run, tmp_path: Path) -> None:
    """Watching a regular file raises PermissionError, and nothing stays registered."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with (tmp_path / "file").open("w+") as file:
            for _ in range(2):
                with pytest.raises(PermissionError):
                    loop.add_reader(file, print)
                with pytest.raises(PermissionError):
                    loop.add_writer(file, print)
            assert not loop.remove_reader(file)

    run(main())


def test_numbers_and_objects_that_are_no_descriptors_are_refused(run: Run) -> None:
    """A negative number and an object without `fileno` give ValueError."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wrong: list[Any] = [-1, object(), "1"]
        for fd in wrong:
            with pytest.raises(ValueError, match=r"[Ii]nvalid"):
                loop.add_reader(fd, print)

    run(main())


def test_closed_number_is_refused(run: Run) -> None:
    """A number that is no open descriptor raises OSError."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reading, _writing):
            os.close(reading)
            with pytest.raises(OSError, match="Bad file descriptor"):
                loop.add_reader(reading, print)

    run(main())


def test_reader_of_a_closed_descriptor_can_be_removed(run: Run) -> None:
    """A reader can be removed by the number of a closed descriptor, and the result says so."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reading, _writing):
            loop.add_reader(reading, print)
            os.close(reading)
            await ticks(1)
            assert loop.remove_reader(reading)

    run(main())


def test_reader_of_a_closed_socket_can_be_removed_by_the_socket(run: Run) -> None:
    """A reader can be removed by its socket after the socket was closed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, _theirs):
            loop.add_reader(ours, print)
            ours.close()
            assert loop.remove_reader(ours)

    run(main())


@pytest.mark.parametrize(("first", "second"), [("reader", "writer"), ("writer", "reader")])
def test_handler_of_a_closed_socket_can_be_removed_by_it_although_the_other_was_added_by_number(
    run: Run, first: str, second: str
) -> None:
    """A descriptor's number does not replace the socket with which the first handler was added."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, _theirs):
            fd = ours.fileno()
            getattr(loop, f"add_{first}")(ours, print)
            getattr(loop, f"add_{second}")(fd, print)
            assert getattr(loop, f"remove_{second}")(fd)
            ours.close()
            assert getattr(loop, f"remove_{first}")(ours)
            with pytest.raises(ValueError, match="Invalid file"):
                loop.remove_reader(ours)

    run(main())


@threadlets_only
def test_both_handlers_of_a_closed_socket_can_be_removed_by_it(run: Run) -> None:
    """The socket stands for its descriptor in both directions, whichever of them it was given for."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, _theirs):
            loop.add_reader(ours, print)
            loop.add_writer(ours.fileno(), print)
            ours.close()
            assert loop.remove_writer(ours)
            assert loop.remove_reader(ours)

    run(main())


def test_object_of_a_reader_is_kept_as_long_as_the_reader_only(run: Run) -> None:
    """The object is released with the last handler, also where operations have used the descriptor."""

    class File:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def fileno(self) -> int:
            return self.fd

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs):
            theirs.send(b"x")
            assert b"x" == await loop.sock_recv(ours, 1)
            file = File(ours.fileno())
            gone = weakref.ref(file)
            loop.add_reader(file, print)
            loop.add_writer(file.fileno(), print)
            assert loop.remove_writer(file.fileno())
            del file
            assert gone() is not None
            assert loop.remove_reader(ours)
            assert gone() is None

    run(main())


@threadlets_only
def test_reader_of_a_reused_number_is_called(run: Run) -> None:
    """A number closed without the loop's knowledge and opened anew can be watched at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, first_peer = socket.socketpair()
        fd = first.fileno()
        loop.add_reader(fd, print, "stale")
        await ticks(1)
        second, second_peer = socket.socketpair()
        first.close()
        os.dup2(second.fileno(), fd)
        called = asyncio.Event()
        loop.add_reader(fd, called.set)
        second_peer.send(b"x")
        await called.wait()
        loop.remove_reader(fd)
        os.close(fd)
        for sock in (first_peer, second, second_peer):
            sock.close()

    run(main())


def test_descriptor_of_a_transport_is_refused(run: Run) -> None:
    """Watching the descriptor of a transport raises RuntimeError."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder) as connection:
            fd = connection.transport.get_extra_info("socket").fileno()
            for call in (loop.add_reader, loop.add_writer):
                with pytest.raises(RuntimeError, match="used by transport"):
                    call(fd, print)
            with pytest.raises(RuntimeError, match="used by transport"):
                loop.remove_reader(fd)

    run(main())


def test_duplicate_is_watched_apart(run: Run) -> None:
    """Two descriptors of one pipe have a reader each."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pipe() as (reading, writing):
            duplicate = os.dup(reading)
            one, two = asyncio.Event(), asyncio.Event()
            loop.add_reader(reading, one.set)
            loop.add_reader(duplicate, two.set)
            os.write(writing, b"x")
            await one.wait()
            await two.wait()
            loop.remove_reader(reading)
            loop.remove_reader(duplicate)
            os.close(duplicate)

    run(main())


@threadlets_only
def test_watched_descriptors_can_be_looked_up(run: Run) -> None:
    """`loop._selector`, where asyncio keeps its selector, lists the watched descriptors."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        with pipe() as (reading, _writing):
            assert reading not in loop._selector.get_map()
            loop.add_reader(reading, print)
            key = loop._selector.get_key(reading)
            assert (reading, 1) == (key.fd, key.events)
            loop.remove_reader(reading)
            with pytest.raises(KeyError):
                loop._selector.get_key(reading)

    run(main())


@threadlets_only
def test_thousand_readers_are_called_in_one_go(run: Run) -> None:
    """Of 1500 descriptors that are ready at once, each has its reader called."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(1500)]
        called: set[int] = set()
        all_called = asyncio.Event()

        def read(sock: socket.socket) -> None:
            called.add(sock.fileno())
            sock.recv(1)
            if len(called) == len(pairs):
                all_called.set()

        for ours, theirs in pairs:
            loop.add_reader(ours, read, ours)
            theirs.send(b"x")
        await all_called.wait()
        for ours, theirs in pairs:
            loop.remove_reader(ours)
            ours.close()
            theirs.close()

    run(main())


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("before", ["nothing", "an operation", "a writer"])
def test_urgent_data_is_nothing_to_read(run: Run, before: str, debug: bool) -> None:
    """A reader is called for the data after it only, whatever else waits for the descriptor."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        ours, theirs = tcp_pair()
        with ours, theirs:
            calls: list[bytes] = []
            if before == "an operation":
                # The descriptor stays registered for both directions from here on.
                first = asyncio.create_task(loop.sock_recv(ours, 5))
                await ticks(2)
                theirs.send(b"first")
                assert b"first" == await first

            def read() -> None:
                try:
                    calls.append(ours.recv(100))
                except BlockingIOError:
                    calls.append(b"nothing")

            loop.add_reader(ours, read)
            if before == "a writer":
                writable = asyncio.Event()
                loop.add_writer(ours, writable.set)
                await writable.wait()
                loop.remove_writer(ours)
            theirs.send(b"!", socket.MSG_OOB)
            await loop.run_in_executor(None, wait_for_urgent_data, ours)
            await ticks(5)
            assert [] == calls
            theirs.send(b"data")
            await eventually(lambda: b"data" in calls)
            assert [b"data"] == calls
            loop.remove_reader(ours)

    run(main())


def test_operation_waits_through_urgent_data(run: Run) -> None:
    """A receive that waits gets the data that follows, and never an error or an empty result."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = tcp_pair()
        with ours, theirs:
            for receive in (
                lambda: loop.sock_recv(ours, 100),
                lambda: loop.sock_recv_into(ours, bytearray(100)),
            ):
                receiving: asyncio.Task[Any] = asyncio.create_task(receive())
                await ticks(2)
                theirs.send(b"!", socket.MSG_OOB)
                await loop.run_in_executor(None, wait_for_urgent_data, ours)
                await ticks(5)
                assert not receiving.done()
                theirs.send(b"data")
                assert await receiving in (b"data", 4)

    run(main())


def test_protocol_that_lends_its_buffer_is_not_asked_for_urgent_data(run: Run) -> None:
    """`get_buffer` is not called for urgent data, which would not be put into the buffer."""

    class Lends(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.n_asked = 0
            self.received = asyncio.Event()

        def get_buffer(self, sizehint: int) -> bytearray:
            self.n_asked += 1
            return bytearray(100)

        def buffer_updated(self, nbytes: int) -> None:
            self.received.set()

    async def main() -> None:
        async with connected(Lends, tcp=True) as connection:
            await ticks(2)
            n_asked = connection.protocol.n_asked
            connection.peer.send(b"!", socket.MSG_OOB)
            sock = connection.transport.get_extra_info("socket")
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, wait_for_urgent_data, sock)
            await ticks(5)
            assert connection.protocol.n_asked == n_asked
            connection.peer.send(b"data")
            await connection.protocol.received.wait()

    run(main())


def wait_for_urgent_data(sock: Any) -> None:
    """Wait until urgent data has arrived."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLPRI)
    assert poll.poll(5000)


@threadlets_only
def test_reader_that_the_kernel_refuses_is_reported_and_asked_for_again(run: Run) -> None:
    """The reader is reported once, and called again once the kernel watches its descriptor again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: reported.append(context))
        ours = [
            int(fd)
            for fd in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{fd}")
            and os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventpoll]"
        ]
        reader, writer = os.pipe()
        number = os.dup(reader)
        calls = asyncio.Queue[bool]()

        def ready() -> None:
            # The first call puts an epoll instance in the pipe's place, which the kernel refuses.
            is_first = not reported
            if is_first:
                os.dup2(circle.fileno(), number)
            else:
                loop.remove_reader(number)
            calls.put_nowait(is_first)

        # The loop's epoll cannot watch an epoll instance that watches it: ELOOP.
        with select.epoll() as circle:
            for fd in ours:
                circle.register(fd)
            loop.add_reader(number, ready)
            os.write(writer, b"x")
            assert await calls.get()
            await eventually(lambda: reported)
            await asyncio.sleep(0.06)
            os.dup2(reader, number)
            assert not await calls.get()
        for fd in (reader, writer, number):
            os.close(fd)
        assert [errno.ELOOP] == [it["exception"].errno for it in reported]
        assert "refuses to watch descriptor" in reported[0]["message"]

    run(main())
