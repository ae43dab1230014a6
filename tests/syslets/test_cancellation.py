"""Cancelling runs: at every kind of atom, at any moment; memory and descriptors come back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets import BufferPool, CompletionRing, engine, sweep, syslet
from threadlets.atoms import (
    Flow,
    accept,
    break_if,
    buffer,
    close,
    connect,
    loop,
    openat,
    poll,
    pread,
    read,
    readv,
    recv,
    recvmsg,
    send,
    splice,
    timeout,
    waitid,
    write,
)
from threadlets.testing import use_engine
from waiting import eventually, wait_until

from .harness import Peers, open_descriptors, wait_for_quiet, within_deadline

Pair = Callable[..., tuple[socket.socket, socket.socket]]


@syslet
def _sleep(seconds):
    yield timeout(seconds)


@syslet
def _recv(fd):
    data = buffer(4096)
    n = yield recv(fd, data)
    return data[:n]


@syslet
def _recv_into(fd, memory):
    n = yield recv(fd, memory)
    return n


@syslet
def _recv_all_into(fd, memory):
    n = yield recv(fd, memory, socket.MSG_WAITALL)
    return n


@syslet
def _recv_message_into(fd, memory):
    message = yield recvmsg(fd, [memory[:3], memory[3:]])
    return message


@syslet
def _read_into(fd, memory):
    n = yield read(fd, memory)
    return n


@syslet
def _readv_into(fd, memory):
    n = yield readv(fd, [memory[:3], memory[3:]])
    return n


@syslet
def _accept(fd):
    accepted = yield accept(fd)
    return accepted


@syslet
def _connect(fd, where):
    yield connect(fd, where)


@syslet
def _poll(fd):
    yield poll(fd, select.POLLIN)


@syslet
def _wait(pid):
    yield waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@syslet
def _send(fd, data):
    n = yield send(fd, data)
    return n


@syslet
def _splice(src, dst):
    yield splice(src, dst, 100)


@syslet
def _open_then_recv(path, fd):
    yield openat(path)
    yield openat(path)
    data = buffer(10)
    yield recv(fd, data)


@syslet
def _open_after(seconds, path):
    yield timeout(seconds)
    fd = yield openat(path)
    return fd


@syslet
def _copy_for_ever(source, target):
    src = yield openat(source)
    dst = yield openat(target, os.O_WRONLY | os.O_CREAT)
    chunk = buffer(65536)
    with loop():
        n = yield pread(src, chunk, 0)
        break_if(n < 0)
        yield write(dst, chunk[:n])


@syslet
def _stubborn(fd):
    """Continue after every error of an atom."""
    with loop():
        value = yield poll(fd, select.POLLIN).unchecked()
        break_if(value > 0)


@syslet
def _hog(seconds):
    """Block the engine's thread, once it carries this run on."""
    yield timeout(0.001)
    yield timeout(seconds).synchronous()


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def _nothing_is_under_way() -> bool:
    return 0 == engine().in_flight


class _Blocking:
    """Sockets, pipes and a child for which programs wait; the stack closes them."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        enter = stack.enter_context
        self.one, self.other = (enter(it) for it in socket.socketpair())
        self.reader, self.writer = os.pipe()
        for fd in (self.reader, self.writer):
            stack.callback(os.close, fd)
        self.listener = enter(socket.create_server(("127.0.0.1", 0)))
        # A listener that accepts no connection, and whose backlog is full.
        self.full = enter(socket.socket(socket.AF_UNIX))
        self.full.bind(name := b"\0threadlets-full-%d" % os.getpid())
        self.full.listen(0)
        self.name = name
        first = enter(socket.socket(socket.AF_UNIX))
        first.connect(name)
        self.late = enter(socket.socket(socket.AF_UNIX))
        self.child = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
        stack.callback(self.child.wait)
        stack.callback(self.child.kill)


_WAITS: dict[str, Callable[[_Blocking], Any]] = {
    "recv": lambda it: _recv(it.one),
    "recv into lent memory": lambda it: _recv_into(it.one, bytearray(10)),
    "recv of all": lambda it: _recv_all_into(it.one, bytearray(10)),
    "recvmsg": lambda it: _recv_message_into(it.one, bytearray(10)),
    "read of a pipe": lambda it: _read_into(it.reader, bytearray(10)),
    "readv of a pipe": lambda it: _readv_into(it.reader, bytearray(10)),
    "accept": lambda it: _accept(it.listener),
    "connect": lambda it: _connect(it.late, it.name),
    "poll": lambda it: _poll(it.one),
    "waitid": lambda it: _wait(it.child.pid),
    "send of more than fits": lambda it: _send(it.one, bytes(10_000_000)),
    "splice from a pipe": lambda it: _splice(it.reader, it.one.fileno()),
    "recv with files open": lambda it: _open_then_recv("/dev/null", it.one),
    "a loop that goes on": lambda it: _stubborn(it.one),
}


@pytest.fixture
def blocking(nothing_leaks: None) -> Iterator[_Blocking]:
    with contextlib.ExitStack() as stack:
        yield _Blocking(stack)


@pytest.mark.parametrize("wait", _WAITS.values(), ids=_WAITS)
def test_cancelled_program_has_ended_when_the_error_comes(
    engine_kind: str, blocking: _Blocking, wait: Callable[[_Blocking], Any]
) -> None:
    """When the error arrives, within five seconds, no run is in flight and no buffer in use."""

    async def main() -> None:
        task = asyncio.create_task(wait(blocking))
        await eventually(lambda: engine().in_flight == 1)
        started = time.monotonic()
        await _cancel(task)
        assert _nothing_is_under_way()
        assert 0 == BufferPool.default().in_use
        assert time.monotonic() - started < 5

    within_deadline(main())


@pytest.mark.parametrize("wait", _WAITS.values(), ids=_WAITS)
def test_cancelled_before_the_engine_has_seen_it(
    engine_kind: str, blocking: _Blocking, wait: Callable[[_Blocking], Any]
) -> None:
    """A run that is cancelled in the tick after its beginning has ended when the error arrives."""

    async def main() -> None:
        task = asyncio.create_task(wait(blocking))
        await asyncio.sleep(0)
        await _cancel(task)
        assert _nothing_is_under_way()

    within_deadline(main())


@pytest.mark.parametrize("wait", _WAITS.values(), ids=_WAITS)
def test_a_ring_cancels_what_it_has(
    engine_kind: str, blocking: _Blocking, wait: Callable[[_Blocking], Any]
) -> None:
    """Every cancelled program makes its entry, with ECANCELED or with what it has done so far."""
    ring = CompletionRing()
    coroutine = wait(blocking)
    program, args = _submitted(coroutine)
    assert ring.submit(program, *args, tag="tag") is None
    ring.cancel()
    ((tag, result),) = ring.wait(1, 10)
    assert "tag" == tag
    assert errno.ECANCELED == result.errno or result.ok


def _submitted(coroutine: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the program and the arguments of a coroutine that was not begun."""
    found = coroutine.cr_frame.f_locals
    coroutine.close()
    return found["self"], found["args"]


def test_cancelled_time_out_is_over(clocked_engine: str) -> None:
    """A time-out that a task or a completion ring cancels ends at once."""

    async def main() -> None:
        task = asyncio.create_task(_sleep(1000))
        await eventually(lambda: engine().in_flight == 1)
        await _cancel(task)
        assert _nothing_is_under_way()

    within_deadline(main())
    ring = CompletionRing()
    assert ring.submit(_sleep, 1000) is None
    ring.cancel()
    ((_, result),) = ring.wait(1, 10)
    assert errno.ECANCELED == result.errno


@pytest.mark.parametrize(
    "program",
    [_recv_into, _recv_all_into, _recv_message_into, _read_into, _readv_into],
    ids=lambda it: it.__name__,
)
def test_lent_memory_is_not_written_to_after_the_error(
    engine_kind: str, pair: Pair, program: Any
) -> None:
    """Bytes that arrive later stay in the socket, and the lent memory can be resized."""
    one, other = pair()
    memory = bytearray(10)

    async def main() -> None:
        task = asyncio.create_task(program(one, memory))
        await eventually(lambda: engine().in_flight == 1)
        await _cancel(task)
        memory.append(0)
        other.send(b"0123456789")
        assert 10 == len(one.recv(100, socket.MSG_PEEK))
        assert bytes(11) == memory

    within_deadline(main())


def test_second_cancellation_waits_for_the_end_too(clocked_engine: str, pair: Pair) -> None:
    """However often a task is cancelled, its program has ended when the task ends."""
    one, _ = pair()
    memory = bytearray(10)

    async def main() -> None:
        task = asyncio.create_task(_recv_into(one, memory))
        await eventually(lambda: engine().in_flight == 1)
        hog = asyncio.create_task(_hog(0.2))
        await eventually(lambda: engine().in_flight == 2)
        # Gives the program time to occupy the engine's thread, of which there is no sign.
        await asyncio.sleep(0.01)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        memory.append(0)
        await hog

    within_deadline(main())


def test_timeout_of_asyncio_ends_a_program(clocked_engine: str, pair: Pair) -> None:
    """asyncio.timeout raises TimeoutError, and the task continues."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await _recv(pair()[0])
        assert _nothing_is_under_way()
        assert (await _sleep(0)).ok

    within_deadline(main())


def test_loop_in_progress_is_cancelled(clocked_engine: str, tmp_path: Path) -> None:
    """A copy that would never end is cancelled, and closes its files; other runs continue."""
    source = tmp_path / "source"
    source.write_bytes(bytes(65536))

    async def main() -> None:
        task = asyncio.create_task(_copy_for_ever(source, "/dev/null"))
        await eventually(lambda: engine().in_flight == 1)
        await asyncio.wait_for(_sleep(0.01), 5)
        await _cancel(task)
        assert _nothing_is_under_way()

    within_deadline(main())


def test_descriptor_of_a_result_that_is_lost_is_closed(engine_kind: str) -> None:
    """A task is cancelled after its program has ended, but before the task has resumed."""

    async def main() -> None:
        for _ in range(20):
            task = asyncio.create_task(_open_after(0.001, "/dev/null"))
            await asyncio.sleep(0)
            wait_until(_nothing_is_under_way)
            await _cancel(task)
        gc.collect()

    within_deadline(main())


def test_descriptor_of_a_task_that_another_cancels_in_the_same_tick_is_closed(
    engine_kind: str,
) -> None:
    """Both programs have ended when one task cancels the other, whose future is done already."""

    async def main() -> None:
        async def canceller() -> None:
            await _sleep(0.001)
            task.cancel()

        for _ in range(20):
            other = asyncio.create_task(canceller())
            task = asyncio.create_task(_open_after(0.001, "/dev/null"))
            await asyncio.sleep(0)
            wait_until(_nothing_is_under_way)
            results = await asyncio.gather(task, other, return_exceptions=True)
            if not isinstance(results[0], BaseException):
                os.close(results[0].unwrap())
        gc.collect()

    within_deadline(main())


def test_descriptor_whose_close_was_cancelled_is_closed(pair: Pair) -> None:
    """A close is cancelled while it waits for a blocking thread, all of which are busy."""

    def blocking_threads() -> list[str]:
        threads = Path("/proc/self/task").iterdir()
        return [it.name for it in threads if "engine-blocking" in (it / "comm").read_text()]

    @syslet
    def fill(fd, memory):
        yield pread(fd, memory, 0).asynchronous()

    @syslet
    def open_and_close(path, fd):
        opened = yield openat(path)
        yield recv(fd, buffer(1))
        yield close(opened).asynchronous()

    one, other = pair(socket.SOCK_DGRAM)
    memory = bytearray(1 << 25)
    source = os.open("/dev/urandom", os.O_RDONLY)
    with use_engine("workers", threads=1):
        busy, ring = CompletionRing(), CompletionRing()
        for _ in range(5):
            ring.submit(open_and_close, "/dev/zero", one)
        for _ in range(16):
            busy.submit(fill, source, memory)
        wait_until(lambda: len(blocking_threads()) == 16)
        for _ in range(5):
            other.send(b"x")
        wait_until(lambda: not select.select([one], [], [], 0)[0])
        # A later command is executed later: then the five wait for a blocking thread.
        last = CompletionRing()
        last.submit(_sleep, 0, flags=Flow.ASYNC)
        assert 1 == len(last.wait(1, 10))
        ring.cancel()
        assert 5 == len(ring.wait(5, 10))
        assert "/dev/zero" not in open_descriptors().values()
        assert 16 == len(busy.wait(16, 20))
    os.close(source)


def test_other_programs_on_a_socket_go_on_when_one_is_cancelled(
    engine_kind: str, pair: Pair
) -> None:
    """Of ten receives on one socket one is cancelled, and the other nine get their bytes."""
    one, other = pair(socket.SOCK_DGRAM)

    async def main() -> None:
        tasks = [asyncio.create_task(_recv(one)) for _ in range(10)]
        await eventually(lambda: engine().in_flight == 10)
        await _cancel(tasks.pop(4))
        for i in range(9):
            other.send(b"%d" % i)
        results = await asyncio.gather(*tasks)
        assert [b"%d" % i for i in range(9)] == sorted(result.unwrap() for result in results)

    within_deadline(main())


def test_closed_loop_ends_its_programs(engine_kind: str, pair: Pair) -> None:
    """The memory and descriptors of the programs come back, though the loop object still exists."""
    loop = threadlets.new_event_loop()
    coroutines = [_open_then_recv("/dev/null", pair()[0]) for _ in range(10)]

    async def main() -> None:
        for coroutine in coroutines:
            coroutine.send(None)
            # Many awaits in one step would let other tasks run first.
            await asyncio.sleep(0)
        await eventually(lambda: engine().in_flight == 10)

    loop.run_until_complete(main())
    loop.close()
    wait_for_quiet()
    for coroutine in coroutines:
        coroutine.close()
    del loop


def test_abandoned_coroutine_ends_its_program(engine_kind: str, pair: Pair) -> None:
    """Closing a coroutine ends its program, as cancelling it does."""

    async def main() -> None:
        coroutine = _recv(pair()[0])
        coroutine.send(None)
        await eventually(lambda: engine().in_flight == 1)
        coroutine.close()
        del coroutine
        gc.collect()
        await eventually(_nothing_is_under_way)

    within_deadline(main())


def test_blocking_run_is_interrupted_by_a_signal_handler(pair: Pair) -> None:
    """An exception of the handler propagates; if the handler returns, the program continues."""

    class Alarm(Exception):
        pass

    one, other = pair()
    n_alarms = 0

    def on_alarm(*_args: object) -> None:
        nonlocal n_alarms
        n_alarms += 1
        if n_alarms == 3:
            raise Alarm
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        for wait in (
            lambda: _recv.run(one),
            lambda: _sleep.run(1000),
            lambda: _poll.run(one),
            lambda: _copy_for_ever.run("/dev/zero", "/dev/null"),
            lambda: list(sweep(_sleep, [1000])),
        ):
            n_alarms = 0
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(Alarm):
                wait()
            assert 3 == n_alarms
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    other.send(b"x")
    assert b"x" == _recv.run(one).unwrap()


def test_connecting_to_a_full_backlog_takes_no_time_of_the_cpu(
    clocked_engine: str, blocking: _Blocking
) -> None:
    """A pending connect does not spin, on a blocking or on a non-blocking socket."""
    for is_blocking in (True, False):
        blocking.late.setblocking(is_blocking)

        async def main() -> None:
            task = asyncio.create_task(_connect(blocking.late, blocking.name))
            await asyncio.wait([task], timeout=0.01)
            started = time.process_time()
            await asyncio.wait([task], timeout=0.5)
            assert time.process_time() - started < 0.2
            if not task.done():
                await _cancel(task)

        within_deadline(main())


def test_threads_that_block_do_not_keep_a_program_from_ending(
    engine_kind: str, peers: Peers, pair: Pair
) -> None:
    """Cancelling works while another thread competes for the GIL."""
    is_over = False

    def busy() -> None:
        while not is_over:
            sum(range(1000))

    peers.call(busy)

    async def main() -> None:
        task = asyncio.create_task(_recv(pair()[0]))
        await eventually(lambda: engine().in_flight == 1)
        await _cancel(task)

    try:
        within_deadline(main())
    finally:
        is_over = True
