"""A task whose awaits are all done at once lets others run: timers, events, signals, other tasks."""

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
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
import threadlets
from threadlets import CompletionRing, Pool, Scope, sweep

from .harness import Once, call, read_head, until


async def until_timers_end(once: Once) -> None:
    """Await `once` over and over, until three timers have ended one after the other."""
    n_ended = 0

    async def neighbour() -> None:
        nonlocal n_ended
        for _ in range(3):
            await asyncio.sleep(0.001)
            n_ended += 1

    task = asyncio.create_task(neighbour())
    await until(lambda: n_ended == 3, once)
    await task


@contextlib.asynccontextmanager
async def _a_call() -> AsyncIterator[Once]:
    yield call


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
    yield lambda: read_head(__file__)


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
    results = sweep(read_head, itertools.repeat(__file__))
    yield lambda: anext(results)
    results.close()


@contextlib.asynccontextmanager
async def _batches_of_a_sweep() -> AsyncIterator[Once]:
    results = sweep(read_head, itertools.repeat(__file__))
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


@contextlib.asynccontextmanager
async def _datagrams() -> AsyncIterator[Once]:
    loop = asyncio.get_running_loop()
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ours:
        ours.setblocking(False)
        ours.bind(("127.0.0.1", 0))
        address = ours.getsockname()
        room = bytearray(1)

        async def once() -> None:
            await loop.sock_sendto(ours, b"xx", address)
            await loop.sock_recvfrom(ours, 1)
            await loop.sock_sendto(ours, b"xx", address)
            await loop.sock_recvfrom_into(ours, room, 1)

        yield once


@contextlib.asynccontextmanager
async def _connections() -> AsyncIterator[Once]:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        listener.setblocking(False)

        async def once() -> None:
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                await loop.sock_connect(client, listener.getsockname())
                accepted, _ = await loop.sock_accept(listener)
                accepted.close()

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
    _datagrams,
    _connections,
]


@pytest.mark.parametrize("what", _KINDS, ids=lambda it: it.__name__)
def test_others_run_whatever_is_awaited(run: Any, engine_kind: str, what: Any) -> None:
    """Others run on each engine, whatever is awaited."""

    async def main() -> None:
        async with what() as once:
            await until_timers_end(once)

    run(main())


@pytest.mark.parametrize("options", [{"tasks": "asyncio"}, {"debug": True}], ids=str)
@pytest.mark.parametrize(
    "what", [_a_call, _a_program, _reads_of_a_buffer], ids=lambda it: it.__name__
)
def test_others_run_on_every_kind_of_loop(run: Any, what: Any, options: dict[str, Any]) -> None:
    """Others run with asyncio's own tasks, and in debug mode."""

    async def main() -> None:
        async with what() as once:
            await until_timers_end(once)

    run(main(), **options)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("tasks", ["native", "asyncio"])
def test_others_run_in_an_eager_step(run: Any, tasks: str) -> None:
    """The code that has made the task goes on, and so do the others."""

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        over = False
        greedy = asyncio.create_task(until(lambda: over, call))
        await until_timers_end(call)
        over = True
        await greedy

    run(main(), tasks=tasks)


def test_others_run_beside_many_such_tasks(run: Any) -> None:
    """Twenty such tasks run one after the other, and so do others."""

    async def main() -> None:
        over = False
        n_awaits = [0] * 20

        async def greedy(idx: int) -> None:
            async def once() -> None:
                n_awaits[idx] += 1
                await call()

            await until(lambda: over, once)

        tasks = [asyncio.create_task(greedy(idx)) for idx in range(len(n_awaits))]
        for _ in range(3):
            await asyncio.sleep(0.001)
        over = True
        await asyncio.gather(*tasks)
        assert all(n_awaits)

    run(main())


def test_a_timeout_ends_such_a_task(run: Any) -> None:
    """A timeout ends such a task as it would end one that waits."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await until(lambda: False, call)

    run(main())


def test_a_cancelled_scope_of_anyio_ends_such_a_task(run: Any) -> None:
    """The scope cancels such a task again and again until its block is left."""

    async def main() -> None:
        n_cancelled = 0
        with anyio.move_on_after(0.01):
            while True:
                try:
                    await until(lambda: False, call)
                except asyncio.CancelledError:
                    n_cancelled += 1
                    if n_cancelled == 3:
                        raise
        assert 3 == n_cancelled

    run(main())


def test_events_are_polled_for(run: Any) -> None:
    """A readable descriptor and a callback from another thread are noticed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: set[str] = set()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            loop.add_reader(ours, lambda: (seen.add("reader"), loop.remove_reader(ours)))
            theirs.send(b"x")
            other = threading.Thread(target=loop.call_soon_threadsafe, args=(seen.add, "thread"))
            other.start()
            await until(lambda: len(seen) == 2, call)
            other.join()

    run(main())


def test_signals_are_heard(run: Any) -> None:
    """A signal handler of the loop's is called."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        received: list[int] = []
        loop.add_signal_handler(signal.SIGUSR1, received.append, 1)
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: bool(received), call)
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)

    run(main())


def test_calls_that_wait_in_a_pool_begin(run: Any) -> None:
    """A call that waits in a pool begins, even if it begins only when nothing else is ready."""

    async def main() -> None:
        batch = Pool(limit=1, priority=threadlets.BATCH)
        task = asyncio.create_task(batch.call(int))
        await until(task.done, call)

    run(main())
