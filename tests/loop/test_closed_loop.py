"""A closed loop refuses every use, and says why and what to do instead."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from typing import Any

import pytest

from .harness import LoopFactory, socket_pair, threadlets_only

USES: dict[str, Callable[[Any, socket.socket], Any]] = {
    "call_soon": lambda loop, _: loop.call_soon(print),
    "call_soon_threadsafe": lambda loop, _: loop.call_soon_threadsafe(print),
    "call_later": lambda loop, _: loop.call_later(1, print),
    "call_at": lambda loop, _: loop.call_at(1, print),
    "run_forever": lambda loop, _: loop.run_forever(),
    "run_until_complete": lambda loop, _: loop.run_until_complete(loop.create_future()),
    "add_reader": lambda loop, sock: loop.add_reader(sock, print),
    "add_writer": lambda loop, sock: loop.add_writer(sock, print),
    "add_signal_handler": lambda loop, _: loop.add_signal_handler(10, print),
    "run_in_executor": lambda loop, _: loop.run_in_executor(None, print),
    "sock_recv": lambda loop, sock: step(loop.sock_recv(sock, 1)),
    "sock_recv_into": lambda loop, sock: step(loop.sock_recv_into(sock, bytearray(1))),
    "sock_sendall": lambda loop, sock: step(loop.sock_sendall(sock, bytes(1 << 23))),
    "sock_accept": lambda loop, _: step_listener(loop),
    "sock_recvfrom": lambda loop, sock: step(loop.sock_recvfrom(sock, 1)),
    "create_connection": lambda loop, sock: step(
        loop.create_connection(asyncio.Protocol, sock=sock)
    ),
    "create_task": lambda loop, _: create_task(loop),
    "getaddrinfo": lambda loop, _: step(loop.getaddrinfo("127.0.0.1", 80)),
}


def step(coroutine: Any) -> None:
    """Run only the first step of a coroutine: one that is not refused would wait for ever."""
    try:
        coroutine.send(None)
    finally:
        coroutine.close()
        gc.collect()  # Now, while warnings of what is left open are ignored.


def step_listener(loop: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        step(loop.sock_accept(listener))


def create_task(loop: Any) -> None:
    coroutine = asyncio.sleep(0)
    try:
        loop.create_task(coroutine)
    finally:
        coroutine.close()


@pytest.fixture
def closed(loop_factory: LoopFactory) -> asyncio.AbstractEventLoop:
    """Return a loop that has been closed."""
    loop = loop_factory()
    loop.close()
    return loop


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("use", list(USES))
def test_closed_loop_refuses(closed: asyncio.AbstractEventLoop, use: str) -> None:
    """Every use of a closed loop raises RuntimeError."""
    with (
        socket_pair() as (ours, _theirs),
        pytest.raises(RuntimeError, match="Event loop is closed"),
    ):
        USES[use](closed, ours)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@threadlets_only
@pytest.mark.parametrize("use", list(USES))
def test_refusal_tells_fact_cause_and_remedy(closed: asyncio.AbstractEventLoop, use: str) -> None:
    """The message says that the loop is closed, what closed it, and how to get another."""
    with socket_pair() as (ours, _theirs), pytest.raises(RuntimeError) as caught:
        USES[use](closed, ours)
    for part in ("Event loop is closed", "close() was called", "threadlets.new_event_loop()"):
        assert part in str(caught.value)


def test_closed_loop_answers_what_needs_no_running(closed: asyncio.AbstractEventLoop) -> None:
    """Closing twice, removing readers and writers, and asking for time and state still work."""
    with socket_pair() as (ours, _theirs):
        assert not closed.remove_reader(ours)
        assert not closed.remove_writer(ours)
    closed.close()
    closed.stop()
    assert closed.is_closed()
    assert not closed.is_running()
    assert closed.time() > 0
    assert "closed=True" in repr(closed)


def test_running_loop_cannot_be_closed(loop: asyncio.AbstractEventLoop) -> None:
    """Closing a running loop raises RuntimeError, and the loop goes on."""

    async def main() -> str:
        with pytest.raises(RuntimeError, match="running"):
            loop.close()
        await asyncio.sleep(0)
        return "went on"

    assert "went on" == loop.run_until_complete(main())


def test_handles_of_a_closed_loop_can_be_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    """Handles that were pending when the loop was closed can be cancelled."""
    handles = [loop.call_soon(print), loop.call_later(60, print)]
    loop.close()
    for handle in handles:
        handle.cancel()
        assert handle.cancelled()
