"""The requests in trio: events, sleeps and receives, in a nursery."""

from __future__ import annotations

import importlib
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
    from collections.abc import Awaitable, Callable

    from benches.scenario import Figures


async def park_on_futures(parking: Parking) -> Figures:
    """Let each task wait for an event of its own; set them all."""
    trio = _trio()
    events = slots(parking.n)

    async def wait(event: Any) -> None:
        await event.wait()

    parking.creating()
    async with trio.open_nursery() as nursery:
        for idx in range(parking.n):
            events[idx] = event = trio.Event()
            nursery.start_soon(wait, event)
        await _started()
        parking.parked()
        await trio.sleep(SETTLE_S)
        parking.waking()
        for event in events:
            event.set()
    return parking.ended()


async def park_on_sleeps(parking: Parking) -> Figures:
    """Let each task sleep, all until the same time."""
    trio = _trio()

    async def wait(until: float) -> None:
        await trio.sleep(until - clock())

    parking.creating()
    async with trio.open_nursery() as nursery:
        for _ in range(parking.n):
            nursery.start_soon(wait, parking.wake_at)
        await _started()
        parking.parked()
        await trio.sleep(SETTLE_S)
        parking.waking_by_clock()
    return parking.ended()


async def cancel_sleeps(cancelling: Cancelling) -> Figures:
    """Cancel the scope of a nursery whose tasks sleep."""
    trio = _trio()

    async def wait(_idx: int) -> None:
        await trio.sleep(FOREVER_S)

    return await _cancel_nursery(cancelling, wait)


async def cancel_receives(cancelling: Cancelling) -> Figures:
    """Cancel the scope of a nursery whose tasks receive, each on a socket of its own."""
    sockets = [_trio().socket.from_stdlib_socket(one) for one in bound_sockets(cancelling.n)]

    async def wait(idx: int) -> None:
        await sockets[idx].recv(RECEIVE_SIZE)

    try:
        return await _cancel_nursery(cancelling, wait)
    finally:
        for one in sockets:
            one.close()


async def _cancel_nursery(
    cancelling: Cancelling, wait: Callable[[int], Awaitable[None]]
) -> Figures:
    trio = _trio()

    async def tick() -> None:
        while True:
            await trio.sleep(TICK_S)
            cancelling.tick()

    cancelling.creating()
    async with trio.open_nursery() as around:
        around.start_soon(tick)
        async with trio.open_nursery() as nursery:
            for idx in range(cancelling.n):
                nursery.start_soon(wait, idx)
            await _started()
            await trio.sleep(SETTLE_S)
            cancelling.cancelling()
            nursery.cancel_scope.cancel()
        cancelling.ended()
        while not cancelling.is_ticking:
            await trio.sleep(TICK_S)
        around.cancel_scope.cancel()
    del nursery, around
    return cancelling.forgotten()


async def _started() -> None:
    """Return when every task waits; within a tick trio runs them in random order."""
    for _ in range(2):
        await _trio().sleep(0)


def _trio() -> Any:
    return importlib.import_module("trio")
