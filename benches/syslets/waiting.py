"""Many that wait at once, as syslets or as tasks: how much memory each takes, and how long to start."""

from __future__ import annotations

import asyncio
import gc
import importlib
import socket
from typing import TYPE_CHECKING, Any

from benches.calls.capacity import Usage
from benches.calls.timing import now_ns
from benches.peers import SUBJECT
from benches.scenario import MeasurementFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from benches.scenario import Figures

    #: Begin to wait, with the number of the one that waits.
    Start = Callable[[int], asyncio.Future[Any]]

_FOREVER_S = 3600
_BUFFER_SIZE = 64
#: More than it takes until whatever starts late has started.
_SETTLE_S = 0.2


async def timeouts(peer: str, parameters: Mapping[str, Any]) -> Figures:
    """Wait for an hour, so many at once."""
    start = _syslet_timeout() if peer == SUBJECT else _task_timeout
    return await measured(start, parameters["n"])


async def receives(peer: str, parameters: Mapping[str, Any]) -> Figures:
    """Wait for a byte on as many socket pairs, which are there before memory is looked at."""
    pairs = [socket.socketpair() for _ in range(parameters["n"])]
    ours = [pair[0] for pair in pairs]
    for one in ours:
        one.setblocking(False)
    try:
        start = _syslet_receive(ours) if peer == SUBJECT else _task_receive(ours)
        return await measured(start, len(ours))
    finally:
        for pair in pairs:
            pair[0].close()
            pair[1].close()


async def measured(start: Start, n: int) -> Figures:
    """Start so many, see that all of them wait, and cancel them.

    :raises MeasurementFailed: one has ended.
    """
    # Imports and first sizes of tables are nobody's share.
    await _cancel([start(0)])
    gc.collect()
    before = Usage.now()
    started_ns = now_ns()
    waiting = [start(idx) for idx in range(n)]
    # A turn of the loop starts what has only been created.
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


def _syslet_timeout() -> Start:
    threadlets, atoms = _threadlets()

    def wait() -> Generator[Any, Any, Any]:
        yield atoms.timeout(_FOREVER_S)

    program = threadlets.syslet(wait)
    # Where a run is a future already, it is used as it is; otherwise a task awaits it, and counts.
    return lambda _idx: asyncio.ensure_future(program())


def _syslet_receive(sockets: list[socket.socket]) -> Start:
    threadlets, atoms = _threadlets()

    def receive(fd: Any) -> Generator[Any, Any, Any]:
        data = atoms.buffer(_BUFFER_SIZE)
        n = yield atoms.recv(fd, data)
        return data[:n]

    program = threadlets.syslet(receive)
    return lambda idx: asyncio.ensure_future(program(sockets[idx].fileno()))


def _threadlets() -> tuple[Any, Any]:
    return importlib.import_module(SUBJECT), importlib.import_module(f"{SUBJECT}.atoms")
