"""Requests in a scope of threadlets: coroutines, and waits without a coroutine."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any

from benches.peers import SUBJECT
from benches.requests.account import FOREVER_S, SETTLE_S, Cancelling, Parking, clock
from benches.requests.on_loops import bystander, receiving, sleeping

if TYPE_CHECKING:
    from collections.abc import Callable

    from benches.scenario import Figures


async def park_on_waits(parking: Parking) -> Figures:
    """Let waits without a coroutine end, all at the same time."""
    threadlets: Any = importlib.import_module(SUBJECT)
    sleep = threadlets.sleep
    parking.creating()
    until = parking.wake_at
    async with threadlets.Scope() as scope:
        for _ in range(parking.n):
            scope.start(sleep(until - clock()))
        await asyncio.sleep(0)
        parking.parked()
        await asyncio.sleep(SETTLE_S)
        parking.waking_by_clock()
    return parking.ended()


async def cancel_waits(cancelling: Cancelling) -> Figures:
    """Cancel a scope of waits without a coroutine."""
    threadlets: Any = importlib.import_module(SUBJECT)
    sleep = threadlets.sleep
    return await _cancel_scope(cancelling, lambda _: sleep(FOREVER_S))


async def cancel_sleeps(cancelling: Cancelling) -> Figures:
    """Cancel a scope of coroutines that sleep."""
    return await _cancel_scope(cancelling, sleeping)


async def cancel_receives(cancelling: Cancelling) -> Figures:
    """Cancel a scope of coroutines that receive, each on a socket of its own."""
    with receiving(cancelling.n) as make:
        return await _cancel_scope(cancelling, make)


async def _cancel_scope(cancelling: Cancelling, make: Callable[[int], Any]) -> Figures:
    threadlets: Any = importlib.import_module(SUBJECT)
    cancelling.creating()
    async with bystander(cancelling):
        async with threadlets.Scope() as scope:
            for idx in range(cancelling.n):
                scope.start(make(idx))
            await asyncio.sleep(0)
            await asyncio.sleep(SETTLE_S)
            cancelling.cancelling()
            scope.cancel("measured")
        cancelling.ended()
    del scope
    return cancelling.forgotten()
