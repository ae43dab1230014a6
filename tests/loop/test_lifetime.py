"""Lifetime: what is no longer needed is freed, and loops leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .harness import LoopFactory, Recorder, Run, n_descriptors, pipe, threadlets_only, ticks

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Owner:
    """The owner of a handle that calls it: the usual cycle of timers and their objects."""

    def __init__(self, schedule: Callable[..., Any], *args: Any) -> None:
        self.handle = schedule(*args, self.expired)

    def expired(self) -> None: ...


def pending_callback(loop: Any) -> object:
    return loop.call_soon(id, loop)


def pending_timer(loop: Any) -> object:
    return loop.call_later(3600, id, loop)


def owner_of_a_callback(loop: Any) -> object:
    return Owner(loop.call_soon)


def owner_of_a_timer(loop: Any) -> object:
    return Owner(loop.call_later, 3600)


def reader(loop: Any) -> object:
    reading, _ = kept = socket.socketpair()
    loop.add_reader(reading, id, loop)
    loop.kept = kept
    return None


def open_transport(loop: Any) -> object:
    ours, peer = socket.socketpair()
    loop.kept = peer
    return loop.run_until_complete(loop.create_connection(Recorder, sock=ours))


def waiting_receive(loop: Any) -> object:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    loop.kept = peer
    task = loop.create_task(loop.sock_recv(ours, 1))
    loop.run_until_complete(ticks(2))
    return task


def sleeping_task(loop: Any) -> object:
    task = loop.create_task(asyncio.sleep(3600))
    loop.run_until_complete(ticks(2))
    return task


def listening_server(loop: Any) -> object:
    server = loop.run_until_complete(loop.create_server(Recorder, "127.0.0.1", 0))
    loop.run_until_complete(ticks(2))
    return server


SITUATIONS: list[Callable[[Any], object]] = [
    pending_callback,
    pending_timer,
    owner_of_a_callback,
    owner_of_a_timer,
    reader,
    open_transport,
    waiting_receive,
    sleeping_task,
    listening_server,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda it: it.__name__)
@pytest.mark.parametrize("closes", [True, False], ids=["closed", "unclosed"])
def test_unreferenced_loop_is_freed(
    loop_factory: LoopFactory, situation: Callable[[Any], object], closes: bool
) -> None:
    """A loop without references is collected, closed or not, whatever is pending or open."""

    def leave_a_loop() -> weakref.ref[Any]:
        loop = loop_factory()
        loop.set_exception_handler(lambda _loop, _context: None)
        loop.kept_result = situation(loop)  # type: ignore[attr-defined]
        if closes:
            loop.close()
        return weakref.ref(loop)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        left = leave_a_loop()
        for _ in range(3):
            gc.collect()
    assert left() is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("situation", [owner_of_a_callback, owner_of_a_timer])
def test_owner_of_a_handle_dies_when_the_loop_was_closed(
    loop: Any, situation: Callable[[Any], object]
) -> None:
    """An object whose own callback was pending at closing is freed, though the loop lives on."""
    owner = weakref.ref(situation(loop))
    loop.close()
    gc.collect()
    assert owner() is None


def test_callback_runs_without_a_reference_to_its_handle(run: Run) -> None:
    """A collection between scheduling and running takes away nothing that is pending."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        called: list[str] = []
        loop.call_soon(Owner(lambda callback: callback).expired)
        loop.call_soon(called.append, "soon")
        later = loop.call_later(0.001, called.append, "later")
        gc.collect()
        fired = loop.create_future()
        loop.call_at(later.when() + 1e-6, fired.set_result, None)
        del later
        await fired
        assert ["soon", "later"] == called

    run(main())


def test_handle_that_is_kept_keeps_its_callback(run: Run) -> None:
    """A collection spares what only a pending handle refers to, also if the handle is kept."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        called: list[object] = []
        kept = loop.call_soon(called.append, [called])
        gc.collect()
        await ticks(2)
        assert 1 == len(called)
        kept.cancel()

    run(main())


def test_requests_do_not_leak_references(run: Run) -> None:
    """After thousands of callbacks, timers and reads the reference counts are as before."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        token = object()

        def use(_token: object) -> None: ...

        async def round_() -> None:
            for _ in range(1000):
                loop.call_soon(use, token)
                loop.call_later(0, use, token)
                loop.call_later(60, use, token).cancel()
                loop.call_soon(use, token).cancel()
            with pipe() as (reading, writing):
                loop.add_reader(reading, use, token)
                loop.add_writer(writing, use, token)
                await ticks(3)
                loop.remove_reader(reading)
                loop.remove_writer(writing)
            await ticks(3)

        await round_()
        before = (sys.getrefcount(token), sys.getrefcount(use), sys.getrefcount(None) // 1000)
        for _ in range(3):
            await round_()
        after = (sys.getrefcount(token), sys.getrefcount(use), sys.getrefcount(None) // 1000)
        assert before == after

    run(main())


@threadlets_only
def test_connections_leave_nothing_behind(run: Run, tmp_path: Path) -> None:
    """After 200 rounds of 100 connections objects, descriptors, sources and memory are as before."""
    path = str(tmp_path / "socket")

    class Echo(asyncio.Protocol):
        transport: Any

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    class Client(Echo):
        def __init__(self) -> None:
            self.lost = asyncio.get_running_loop().create_future()

        def data_received(self, data: bytes) -> None:
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(None)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        server = await loop.create_unix_server(Echo, path, backlog=200)

        async def round_() -> None:
            clients = []
            for _ in range(100):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(path)
                sock.setblocking(False)
                transport, client = await loop.create_unix_connection(Client, sock=sock)
                transport.write(b"hello")
                clients.append(client.lost)
            await asyncio.wait(clients)
            await ticks(3)

        def counts() -> tuple[int, int, int]:
            gc.collect()
            return len(gc.get_objects()), n_descriptors(), loop._counts()[2]

        for _ in range(20):
            await round_()
        before, resident_before = counts(), n_resident_bytes()
        for _ in range(180):
            await round_()
        after, resident_after = counts(), n_resident_bytes()
        server.close()
        assert before[1:] == after[1:]
        assert abs(after[0] - before[0]) < 50
        assert resident_after - resident_before < 2 << 20

    # It takes five seconds of CPU time, and the machine may be busy.
    run(main(), deadline_s=100)


def n_resident_bytes() -> int:
    """Return the resident memory of the process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def test_loops_that_were_closed_leave_no_descriptors(loop_factory: LoopFactory) -> None:
    """After two hundred loops were made, run and closed, as many descriptors are open as before."""
    gc.collect()
    n_before = n_descriptors()
    for _ in range(200):
        loop = loop_factory()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    del loop
    gc.collect()
    assert n_before == n_descriptors()


def test_closed_loop_holds_no_descriptors(loop_factory: LoopFactory) -> None:
    """`close` closes the loop's descriptors at once, though references to the loop remain."""
    gc.collect()
    n_before = n_descriptors()
    loops = [loop_factory() for _ in range(10)]
    for loop in loops:
        loop.close()
    assert n_before == n_descriptors()


def test_closed_loop_dies_without_a_collection(loop_factory: LoopFactory) -> None:
    """A closed loop is in no reference cycle: dropping its last reference frees it."""
    gc.collect()
    gc.disable()
    try:
        loop = loop_factory()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        left = weakref.ref(loop)
        del loop
        assert left() is None
    finally:
        gc.enable()


def test_unclosed_loop_is_warned_of(loop_factory: LoopFactory) -> None:
    """A loop that is collected without having been closed gives a ResourceWarning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop_factory()
        gc.collect()
    messages = [str(it.message) for it in caught if it.category is ResourceWarning]
    assert any("unclosed event loop" in message for message in messages)
