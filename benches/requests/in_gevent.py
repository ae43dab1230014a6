"""The requests in gevent: greenlets that wait for events, sleep, or receive."""

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
    from collections.abc import Callable

    from benches.scenario import Figures


def park_on_futures(parking: Parking) -> Figures:
    """Let each greenlet wait for an event of its own; set them all."""
    gevent = _gevent()
    make_event = importlib.import_module("gevent.event").Event
    events, greenlets = slots(parking.n), slots(parking.n)

    def wait(event: Any) -> None:
        event.wait()

    parking.creating()
    for idx in range(parking.n):
        events[idx] = event = make_event()
        greenlets[idx] = gevent.spawn(wait, event)
    gevent.sleep(0)
    parking.parked()
    gevent.sleep(SETTLE_S)
    parking.waking()
    for event in events:
        event.set()
    _join(greenlets)
    return parking.ended()


def park_on_sleeps(parking: Parking) -> Figures:
    """Let each greenlet sleep, all until the same time."""
    gevent = _gevent()
    greenlets = slots(parking.n)

    def wait(until: float) -> None:
        gevent.sleep(until - clock())

    parking.creating()
    for idx in range(parking.n):
        greenlets[idx] = gevent.spawn(wait, parking.wake_at)
    gevent.sleep(0)
    parking.parked()
    gevent.sleep(SETTLE_S)
    parking.waking_by_clock()
    _join(greenlets)
    return parking.ended()


def cancel_sleeps(cancelling: Cancelling) -> Figures:
    """Kill all greenlets, which sleep."""
    gevent = _gevent()

    def wait(_idx: int) -> None:
        gevent.sleep(FOREVER_S)

    return _kill_all(cancelling, wait)


def cancel_receives(cancelling: Cancelling) -> Figures:
    """Kill all greenlets, which receive, each on a socket of its own."""
    make_socket = importlib.import_module("gevent.socket").socket
    sockets = [make_socket(fileno=one.detach()) for one in bound_sockets(cancelling.n)]

    def wait(idx: int) -> None:
        sockets[idx].recv(RECEIVE_SIZE)

    try:
        return _kill_all(cancelling, wait)
    finally:
        for one in sockets:
            one.close()


def _kill_all(cancelling: Cancelling, wait: Callable[[int], None]) -> Figures:
    gevent = _gevent()
    greenlets = slots(cancelling.n)

    def tick() -> None:
        while True:
            gevent.sleep(TICK_S)
            cancelling.tick()

    # The first sleep makes the hub, which keeps descriptors of its own.
    gevent.sleep(0)
    cancelling.creating()
    ticking = gevent.spawn(tick)
    gevent.sleep(10 * TICK_S)
    for idx in range(cancelling.n):
        greenlets[idx] = gevent.spawn(wait, idx)
    gevent.sleep(0)
    gevent.sleep(SETTLE_S)
    cancelling.cancelling()
    gevent.killall(greenlets)
    cancelling.ended()
    while not cancelling.is_ticking:
        gevent.sleep(TICK_S)
    ticking.kill()
    greenlets.clear()
    return cancelling.forgotten()


def _join(greenlets: list[Any]) -> None:
    """Wait for all greenlets at the least cost: usually the one that was created last ends last."""
    greenlets[-1].join()
    _gevent().joinall([greenlet for greenlet in greenlets if not greenlet.ready()])


def _gevent() -> Any:
    return importlib.import_module("gevent")
