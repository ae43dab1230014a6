"""Many syslets or tasks that wait at once: the memory of each, and the time to start and cancel."""

from __future__ import annotations

import asyncio
import gc
import importlib
import socket
import time
from typing import TYPE_CHECKING, Any

from benches.calls.capacity import Usage
from benches.calls.timing import now_ns
from benches.peers import SUBJECT
from benches.scenario import MeasurementFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from benches.scenario import Figures

    #: Starts the wait with this number.
    Start = Callable[[int], asyncio.Future[Any]]

#: The peer without tasks: runs of a syslet in a completion ring.
RING = "completion-ring"
_FOREVER_S = 3600
_BUFFER_SIZE = 64
#: Longer than it takes until everything that starts late has started.
_SETTLE_S = 0.2


async def timeouts(peer: str, parameters: Mapping[str, Any]) -> Figures:
    """Measure many waits of an hour."""
    n = parameters["n"]
    if peer == RING:
        return measured_in_ring(_timeout_program(), [(_FOREVER_S,)] * n)
    program = _timeout_program() if peer == SUBJECT else None
    start = _task_timeout if program is None else _task_of(program, [(_FOREVER_S,)] * n)
    return await measured(start, n)


async def receives(peer: str, parameters: Mapping[str, Any]) -> Figures:
    """Measure waits for a byte, each on a socket pair that exists before memory is measured."""
    pairs = [socket.socketpair() for _ in range(parameters["n"])]
    ours = [pair[0] for pair in pairs]
    for one in ours:
        one.setblocking(False)
    try:
        if peer == RING:
            return measured_in_ring(_receive_program(), [(one,) for one in ours])
        if peer == SUBJECT:
            return await measured(_task_of(_receive_program(), [(one,) for one in ours]), len(ours))
        return await measured(_task_receive(ours), len(ours))
    finally:
        for pair in pairs:
            pair[0].close()
            pair[1].close()


async def measured(start: Start, n: int) -> Figures:
    """Start ``n`` waits, check that all of them wait, and cancel them.

    :raises MeasurementFailed: one has ended.
    """
    # One wait before, so that imports and the first growth of tables do not count.
    await _cancel([start(0)])
    gc.collect()
    before = Usage.now()
    started_ns = now_ns()
    waiting = [start(idx) for idx in range(n)]
    # One tick of the loop starts the tasks.
    await asyncio.sleep(0)
    took_ns = now_ns() - started_ns
    await asyncio.sleep(_SETTLE_S)
    rss_kib = Usage.now().rss_kib - before.rss_kib
    if n_done := sum(one.done() for one in waiting):
        raise MeasurementFailed(f"{n_done} of {n} did not wait: {_first_done(waiting)}")
    started_ns = now_ns()
    await _cancel(waiting)
    cancel_us = (now_ns() - started_ns) / 1e3 / n
    return {
        "bytes_each": rss_kib * 1024 / n,
        "start_us_each": took_ns / 1e3 / n,
        "cancel_us_each": cancel_us,
    }


def _first_done(waiting: list[asyncio.Future[Any]]) -> str:
    return repr(next(one for one in waiting if one.done()))


async def _cancel(waiting: list[asyncio.Future[Any]]) -> None:
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def _task_timeout(_idx: int) -> asyncio.Future[Any]:
    return asyncio.create_task(asyncio.sleep(_FOREVER_S))


def _task_receive(sockets: list[socket.socket]) -> Start:
    loop = asyncio.get_running_loop()
    return lambda idx: asyncio.create_task(loop.sock_recv(sockets[idx], _BUFFER_SIZE))


def _timeout_program() -> Any:
    threadlets, atoms = _threadlets()

    def wait(seconds: Any) -> Generator[Any, Any, Any]:
        yield atoms.timeout(seconds)

    return threadlets.syslet(wait)


def _receive_program() -> Any:
    threadlets, atoms = _threadlets()

    def receive(fd: Any) -> Generator[Any, Any, Any]:
        data = atoms.buffer(_BUFFER_SIZE)
        n = yield atoms.recv(fd, data)
        return data[:n]

    return threadlets.syslet(receive)


def _task_of(program: Any, arguments: Sequence[tuple[Any, ...]]) -> Start:
    return lambda idx: asyncio.create_task(program(*arguments[idx]))


def measured_in_ring(program: Any, arguments: Sequence[tuple[Any, ...]]) -> Figures:
    """Start a run for each of the arguments, in a completion ring, and cancel them.

    :raises MeasurementFailed: one has ended.
    """
    threadlets, _ = _threadlets()
    n = len(arguments)
    ring = threadlets.CompletionRing()
    ring.submit(program, *arguments[0])
    ring.cancel()
    ring.wait()
    gc.collect()
    before = Usage.now()
    started_ns = now_ns()
    for each in arguments:
        if (ended := ring.submit(program, *each)) is not None:
            raise MeasurementFailed(f"a run did not wait: {ended}")
    took_ns = now_ns() - started_ns
    time.sleep(_SETTLE_S)
    rss_kib = Usage.now().rss_kib - before.rss_kib
    if (in_flight := threadlets.engine().in_flight) != n:
        raise MeasurementFailed(f"{n - in_flight} of {n} did not wait.")
    started_ns = now_ns()
    ring.cancel()
    n_ended = 0
    while n_ended < n:
        n_ended += len(ring.wait())
    return {
        "bytes_each": rss_kib * 1024 / n,
        "start_us_each": took_ns / 1e3 / n,
        "cancel_us_each": (now_ns() - started_ns) / 1e3 / n,
    }


def _threadlets() -> tuple[Any, Any]:
    return importlib.import_module(SUBJECT), importlib.import_module(f"{SUBJECT}.atoms")
