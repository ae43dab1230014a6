"""Requests as tasks on asyncio loops: the same code for all of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from benches.requests.account import (
    FOREVER_S,
    RECEIVE_SIZE,
    SETTLE_S,
    TICK_S,
    Cancelling,
    Parking,
    bound_sockets,
    clock,
    slots,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from benches.scenario import Figures

    #: Makes the coroutine with a number.
    Make = Callable[[int], Coroutine[Any, Any, Any]]


async def park_on_futures(parking: Parking) -> Figures:
    """Let each task await a future of its own; set them all."""
    loop = asyncio.get_running_loop()
    futures, tasks = slots(parking.n), slots(parking.n)

    async def wait(future: asyncio.Future[None]) -> None:
        await future

    parking.creating()
    for idx in range(parking.n):
        futures[idx] = future = loop.create_future()
        tasks[idx] = loop.create_task(wait(future))
    await _started()
    parking.parked()
    await asyncio.sleep(SETTLE_S)
    parking.waking()
    for future in futures:
        future.set_result(None)
    await _ended(tasks)
    return parking.ended()


async def park_on_sleeps(parking: Parking) -> Figures:
    """Let each task sleep, all until the same time."""
    loop = asyncio.get_running_loop()
    tasks = slots(parking.n)

    async def wait(until: float) -> None:
        await asyncio.sleep(until - clock())

    parking.creating()
    for idx in range(parking.n):
        tasks[idx] = loop.create_task(wait(parking.wake_at))
    await _started()
    parking.parked()
    await asyncio.sleep(SETTLE_S)
    parking.waking_by_clock()
    await _ended(tasks)
    return parking.ended()


async def cancel_sleeps(cancelling: Cancelling) -> Figures:
    """Cancel each of the tasks, all of which sleep."""
    return await _cancel_tasks(cancelling, sleeping)


async def cancel_receives(cancelling: Cancelling) -> Figures:
    """Cancel each of the tasks, all of which receive, each on a socket of its own."""
    with receiving(cancelling.n) as make:
        return await _cancel_tasks(cancelling, make)


async def cancel_group_of_sleeps(cancelling: Cancelling) -> Figures:
    """Cancel a task whose `asyncio.TaskGroup` has tasks that sleep."""
    return await _cancel_group(cancelling, sleeping)


async def cancel_group_of_receives(cancelling: Cancelling) -> Figures:
    """Cancel a task whose `asyncio.TaskGroup` has tasks that receive."""
    with receiving(cancelling.n) as make:
        return await _cancel_group(cancelling, make)


async def sleeping(_idx: int) -> None:
    """Sleep for an hour."""
    await asyncio.sleep(FOREVER_S)


@contextlib.contextmanager
def receiving(n: int) -> Iterator[Make]:
    """Yield a function that makes the coroutine for a socket's number; then close the sockets."""
    loop = asyncio.get_running_loop()
    sockets = bound_sockets(n)

    async def receive(idx: int) -> None:
        await loop.sock_recv(sockets[idx], RECEIVE_SIZE)

    try:
        yield receive
    finally:
        for one in sockets:
            one.close()


@contextlib.asynccontextmanager
async def bystander(cancelling: Cancelling) -> AsyncIterator[None]:
    """Wake every millisecond for the length of the block, and until its end has been measured."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK_S)
            cancelling.tick()

    task = asyncio.create_task(tick())
    await asyncio.sleep(10 * TICK_S)
    try:
        yield
        while not cancelling.is_ticking:
            await asyncio.sleep(TICK_S)
    finally:
        task.cancel()


async def _cancel_tasks(cancelling: Cancelling, make: Make) -> Figures:
    loop = asyncio.get_running_loop()
    tasks = slots(cancelling.n)
    cancelling.creating()
    async with bystander(cancelling):
        for idx in range(cancelling.n):
            tasks[idx] = loop.create_task(make(idx))
        await _started()
        await asyncio.sleep(SETTLE_S)
        cancelling.cancelling()
        for task in tasks:
            task.cancel()
        await _ended(tasks)
        cancelling.ended()
    del task
    tasks.clear()
    return cancelling.forgotten()


async def _cancel_group(cancelling: Cancelling, make: Make) -> Figures:
    async def hold(is_full: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for idx in range(cancelling.n):
                group.create_task(make(idx))
            await _started()
            is_full.set()
            await asyncio.sleep(FOREVER_S)

    is_full = asyncio.Event()
    cancelling.creating()
    async with bystander(cancelling):
        holder = asyncio.create_task(hold(is_full))
        await is_full.wait()
        await asyncio.sleep(SETTLE_S)
        cancelling.cancelling()
        holder.cancel()
        await asyncio.wait([holder])
        cancelling.ended()
    del holder
    return cancelling.forgotten()


async def _started() -> None:
    """Return when every task waits: one tick of the loop starts them all."""
    await asyncio.sleep(0)


async def _ended(tasks: list[asyncio.Task[Any]]) -> None:
    """Wait for all tasks at the least cost: usually the one that was created last ends last."""
    await asyncio.wait(tasks[-1:])
    while left := [task for task in tasks if not task.done()]:
        await asyncio.wait(left)
