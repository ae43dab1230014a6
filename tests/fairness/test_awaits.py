"""A task whose awaits are all done at once lets others run: timers, events, signals, cancellation, other tasks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import threadlets
from threadlets import CompletionRing, Pool, Scope, _core, sweep, syslet
from threadlets.atoms import buffer, close, nop, openat, read
from threadlets.testing import use_engine

_FAILED_AFTER_S = 5.0
"""How long a task goes on that gives nobody a turn."""

Once = Callable[[], Awaitable[Any]]


@pytest.fixture(params=["uring", "workers"])
def engine_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on one kind of engine after the other."""
    with use_engine(request.param):
        yield request.param


@syslet
def _head(path: Any) -> Any:
    fd = yield openat(path)
    data = buffer(16)
    n = yield read(fd, data)
    yield close(fd)
    return data[:n]


@syslet
def _nothing() -> Any:
    yield nop()


async def until(is_over: Callable[[], bool], once: Once) -> None:
    """Await over and over what is done at once, until others have brought something about."""
    failed_at = time.monotonic() + _FAILED_AFTER_S
    while not is_over():
        assert time.monotonic() < failed_at, "nobody else had a turn"
        await once()


async def until_timers_end(once: Once) -> None:
    """The same, until some timers have ended one after the other."""
    n_ended = 0

    async def neighbour() -> None:
        nonlocal n_ended
        for _ in range(3):
            await asyncio.sleep(0.001)
            n_ended += 1

    task = asyncio.create_task(neighbour())
    await until(lambda: n_ended == 3, once)
    await task


async def _call() -> None:
    await threadlets.call(int)


@contextlib.asynccontextmanager
async def _a_call() -> AsyncIterator[Once]:
    yield _call


@contextlib.asynccontextmanager
async def _a_call_of_a_pool() -> AsyncIterator[Once]:
    pool = Pool(limit=2)
    yield lambda: pool.call(int)


@contextlib.asynccontextmanager
async def _a_threadlet() -> AsyncIterator[Once]:
    yield threadlets.threadlet(lambda: None)


@contextlib.asynccontextmanager
async def _a_call_that_fails() -> AsyncIterator[Once]:
    async def once() -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            await threadlets.call(int, "no number")

    yield once


@contextlib.asynccontextmanager
async def _an_async_generator() -> AsyncIterator[Once]:
    async def numbers() -> AsyncIterator[int]:
        while True:
            yield await threadlets.call(int)

    yield numbers().__anext__


@contextlib.asynccontextmanager
async def _a_program() -> AsyncIterator[Once]:
    yield lambda: _head(__file__)


@contextlib.asynccontextmanager
async def _a_whole_file() -> AsyncIterator[Once]:
    yield lambda: threadlets.read_file(__file__)


@contextlib.asynccontextmanager
async def _a_file_that_is_opened() -> AsyncIterator[Once]:
    async def once() -> None:
        async with threadlets.open(__file__) as file:
            await file.read()

    yield once


@contextlib.asynccontextmanager
async def _reads_of_a_buffer() -> AsyncIterator[Once]:
    async with threadlets.open("/dev/zero", "rb", buffering=1 << 22) as file:
        yield lambda: file.read(1)


@contextlib.asynccontextmanager
async def _writes_to_a_buffer() -> AsyncIterator[Once]:
    async with threadlets.open("/dev/null", "wb", buffering=1 << 22) as file:
        yield lambda: file.write(b"x")


@contextlib.asynccontextmanager
async def _lines_of_a_buffer() -> AsyncIterator[Once]:
    source, target = os.pipe()
    os.write(target, b"\n" * 4096)
    async with threadlets.open(source, "rb") as file:
        await file.peek()

        async def once() -> None:
            if file._binary.n_ahead > 1:
                await anext(file)
            else:
                os.write(target, b"\n" * 4096)
                await file.readline()

        yield once
    os.close(target)


@contextlib.asynccontextmanager
async def _text() -> AsyncIterator[Once]:
    async with threadlets.open("/dev/zero", buffering=1 << 22) as file:
        yield lambda: file.read(1)


@contextlib.asynccontextmanager
async def _positions() -> AsyncIterator[Once]:
    async with threadlets.open(__file__, "rb") as file:
        yield file.tell


@contextlib.asynccontextmanager
async def _writelines() -> AsyncIterator[Once]:
    async with threadlets.open("/dev/null", "wb", buffering=1 << 30) as file:
        ends_at = time.monotonic() + 2

        def lines() -> Iterator[bytes]:
            while time.monotonic() < ends_at and len(asyncio.all_tasks()) > 1:
                yield b"x"

        yield lambda: file.writelines(lines())


@contextlib.asynccontextmanager
async def _a_path() -> AsyncIterator[Once]:
    path = threadlets.Path(__file__)
    yield path.exists


@contextlib.asynccontextmanager
async def _names_in_a_folder() -> AsyncIterator[Once]:
    folder = threadlets.Path("/proc/self")
    names = None

    async def once() -> None:
        nonlocal names
        names = names or folder.iterdir()
        if await anext(names, None) is None:
            names = None

    yield once


@contextlib.asynccontextmanager
async def _paths_that_match() -> AsyncIterator[Once]:
    async def once() -> None:
        async for _ in threadlets.Path("/proc/self").glob("*"):
            pass

    yield once


@contextlib.asynccontextmanager
async def _a_walk() -> AsyncIterator[Once]:
    async def once() -> None:
        async for _ in threadlets.walk(os.path.dirname(__file__)):
            pass

    yield once


@contextlib.asynccontextmanager
async def _results_of_a_sweep() -> AsyncIterator[Once]:
    results = sweep(_head, itertools.repeat(__file__))
    yield lambda: anext(results)
    results.close()


@contextlib.asynccontextmanager
async def _batches_of_a_sweep() -> AsyncIterator[Once]:
    results = sweep(_head, itertools.repeat(__file__))
    batches = results.batches_async()
    yield lambda: anext(batches)
    results.close()


@contextlib.asynccontextmanager
async def _a_ring() -> AsyncIterator[Once]:
    ring = CompletionRing()
    yield lambda: ring.async_wait(0)


@contextlib.asynccontextmanager
async def _scopes() -> AsyncIterator[Once]:
    async def once() -> None:
        async with Scope():
            pass

    yield once


@contextlib.asynccontextmanager
async def _drains() -> AsyncIterator[Once]:
    async with Scope() as scope:
        yield scope.drain


@contextlib.asynccontextmanager
async def _receiving() -> AsyncIterator[Once]:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)

        async def once() -> None:
            theirs.send(b"x")
            await loop.sock_recv(ours, 1)

        yield once


@contextlib.asynccontextmanager
async def _sending() -> AsyncIterator[Once]:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)

        async def once() -> None:
            await loop.sock_sendall(ours, b"x")
            theirs.recv(1)

        yield once


_KINDS = [
    _a_call,
    _a_call_of_a_pool,
    _a_threadlet,
    _a_call_that_fails,
    _an_async_generator,
    _a_program,
    _a_whole_file,
    _a_file_that_is_opened,
    _reads_of_a_buffer,
    _writes_to_a_buffer,
    _lines_of_a_buffer,
    _text,
    _positions,
    _writelines,
    _a_path,
    _names_in_a_folder,
    _paths_that_match,
    _a_walk,
    _results_of_a_sweep,
    _batches_of_a_sweep,
    _a_ring,
    _scopes,
    _drains,
    _receiving,
    _sending,
]


@pytest.mark.parametrize("what", _KINDS, ids=lambda it: it.__name__)
def test_others_run_whatever_is_awaited(run: Any, engine_kind: str, what: Any) -> None:
    """On each engine."""

    async def main() -> None:
        async with what() as once:
            await until_timers_end(once)

    run(main())


@pytest.mark.parametrize("options", [{"tasks": "asyncio"}, {"debug": True}], ids=str)
@pytest.mark.parametrize(
    "what", [_a_call, _a_program, _reads_of_a_buffer], ids=lambda it: it.__name__
)
def test_others_run_on_every_kind_of_loop(run: Any, what: Any, options: dict[str, Any]) -> None:
    """With asyncio's own tasks, and in debug mode."""

    async def main() -> None:
        async with what() as once:
            await until_timers_end(once)

    run(main(), **options)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("tasks", ["native", "asyncio"])
def test_others_run_in_an_eager_step(run: Any, tasks: str) -> None:
    """Who has made the task goes on, and so does the rest."""

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        over = False
        greedy = asyncio.create_task(until(lambda: over, _call))
        await until_timers_end(_call)
        over = True
        await greedy

    run(main(), tasks=tasks)


def test_others_run_beside_many_such_tasks(run: Any) -> None:
    """Together they hold up a timer no longer than a few slices."""

    async def main() -> None:
        over = False
        tasks = [asyncio.create_task(until(lambda: over, _call)) for _ in range(20)]
        n_ended = 0
        for _ in range(20):
            await asyncio.sleep(0.001)
            n_ended += 1
        over = True
        await asyncio.gather(*tasks)
        # The tasks had turns, too; had each the whole slice, then fewer.
        assert n_ended == 20

    run(main())


def test_a_timeout_ends_such_a_task(run: Any) -> None:
    """As it would end one that waits."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await until(lambda: False, _call)

    run(main())


def test_a_cancelled_scope_of_anyio_ends_such_a_task(run: Any) -> None:
    """Again and again, until it is left."""

    async def main() -> None:
        n_cancelled = 0
        with anyio.move_on_after(0.01):
            while True:
                try:
                    await until(lambda: False, _call)
                except asyncio.CancelledError:
                    n_cancelled += 1
                    if n_cancelled == 3:
                        raise
        assert n_cancelled == 3

    run(main())


def test_events_are_polled_for(run: Any) -> None:
    """A descriptor that becomes readable, and a callback from another thread."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard: set[str] = set()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            loop.add_reader(ours, lambda: (heard.add("reader"), loop.remove_reader(ours)))
            theirs.send(b"x")
            other = threading.Thread(target=loop.call_soon_threadsafe, args=(heard.add, "thread"))
            other.start()
            await until(lambda: len(heard) == 2, _call)
            other.join()

    run(main())


def test_signals_are_heard(run: Any) -> None:
    """Those with a handler of the loop's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard: list[int] = []
        loop.add_signal_handler(signal.SIGUSR1, heard.append, 1)
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: bool(heard), _call)
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)

    run(main())


def test_calls_that_wait_in_a_pool_begin(run: Any) -> None:
    """Also those that begin only when nothing else is ready."""

    async def main() -> None:
        batch = Pool(limit=1, priority=threadlets.BATCH)
        task = asyncio.create_task(batch.call(int))
        await until(task.done, _call)

    run(main())


async def _cancelled(greedy: Any) -> None:
    """Cancel a task after a while, over and over, so that some are in their first yield."""
    task = asyncio.create_task(greedy)
    await asyncio.sleep(0.002)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_a_cancelled_call_was_not_made(run: Any) -> None:
    """Who is cancelled while others run has lost nothing."""

    async def main() -> None:
        numbers, got = itertools.count(), []

        async def greedy() -> None:
            while True:
                got.append(await threadlets.call(next, numbers))

        for _ in range(5):
            await _cancelled(greedy())
        assert len(got) == next(numbers)

    run(main())


def test_a_cancelled_read_reads_nothing(run: Any, tmp_path: Path) -> None:
    """All that was read is what the file has, from whatever the calls come."""
    content = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(content)

    async def main() -> None:
        got = bytearray()

        async def greedy() -> None:
            while len(got) < len(content) - 100:
                got.extend(await file.read(100))

        async with threadlets.open(tmp_path / "file", "rb") as file:
            for _ in range(5):
                await _cancelled(greedy())
            assert content.startswith(got)
            assert content == bytes(got) + await file.read()

    run(main())


def test_a_cancelled_wait_loses_no_entry(run: Any, engine_kind: str) -> None:
    """Every program that was submitted comes out once."""

    async def main() -> None:
        ring, got, n_submitted = CompletionRing(), [], 0

        async def greedy() -> None:
            nonlocal n_submitted
            while True:
                if (
                    ring.submit(_nothing, tag=n_submitted, flags=threadlets.atoms.Flow.ASYNC)
                    is None
                ):
                    n_submitted += 1
                got.extend(it.tag for it in await ring.async_wait(1))

        for _ in range(5):
            await _cancelled(greedy())
        while ring.outstanding:
            got.extend(it.tag for it in await ring.async_wait(1))
        assert list(range(n_submitted)) == sorted(got)
        ring.close()

    run(main())


def test_clean_ups_begin_at_once(run: Any) -> None:
    """They neither let others run first, nor wait for a thread; so no cancellation keeps them from it."""

    async def main() -> None:
        blocked, opened = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def block() -> None:
            loop.call_soon_threadsafe(blocked.set)
            opened.wait(_FAILED_AFTER_S)

        task = asyncio.create_task(threadlets.call(block))
        await blocked.wait()
        for function in (lambda: None, lambda: time.sleep(0.002), lambda: None):
            with pytest.raises(StopIteration):
                _core.clean_up(function).send(None)
        opened.set()
        await task

    run(main(), threads_max=1)


def test_a_file_is_closed_though_its_task_was_cancelled(run: Any, engine_kind: str) -> None:
    """When others should have run first, too."""

    async def main() -> None:
        file = await threadlets.open(__file__, "rb")
        await threadlets.call(time.sleep, 0.002)
        await threadlets.call(int)

        async def closes() -> None:
            await threadlets.call(int)
            time.sleep(0.002)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await file.close()

        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.create_task(closes())
        assert file.closed
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(file._binary.descriptor.fd)

    run(main())


def test_an_await_inside_a_function_lets_nobody_run(run: Any) -> None:
    """Nobody could: the function does not wait for them."""

    def function() -> None:
        for _ in range(3):
            time.sleep(0.002)
            with pytest.raises(StopIteration):
                threadlets.call(int).send(None)

    async def main() -> None:
        await threadlets.call(function)

    run(main())


def test_whoever_drives_an_await_by_hand_is_not_held_up_for_ever(run: Any) -> None:
    """It yields once, and goes on in the same step."""

    async def main() -> None:
        await threadlets.call(int)
        time.sleep(0.002)
        call = threadlets.call(int, "7")
        assert call.send(None) is None
        with pytest.raises(StopIteration) as returned:
            call.send(None)
        assert returned.value.value == 7

    run(main())


def test_a_call_that_is_thrown_away_while_others_run_was_not_made(run: Any) -> None:
    """Nor is there a warning that it was never awaited."""

    async def main() -> None:
        made: list[int] = []
        for end in ("close", "throw"):
            await threadlets.call(int)
            time.sleep(0.002)
            call = threadlets.call(made.append, 1)
            assert call.send(None) is None
            if end == "close":
                call.close()
            else:
                with pytest.raises(KeyError):
                    call.throw(KeyError())
            with pytest.raises(RuntimeError, match="twice"):
                call.send(None)
            del call
        assert made == []

    run(main())


def test_a_deep_sweep_takes_a_slice_at_a_time(run: Any, engine_kind: str) -> None:
    """In a loop: it goes on where it was, until all is done."""
    n_inputs = 20_000

    async def main() -> None:
        results = sweep(_head, itertools.repeat(__file__, n_inputs), depth=n_inputs)
        first = results._native.next_batch_nowait()
        assert first is not None
        assert results._native.counts()[0] < n_inputs
        n_done = len(first)
        async for batch in results.batches_async():
            n_done += len(batch)
        assert n_inputs == n_done

    run(main())
