"""How a cancellation reaches the task that awaits a program."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from threadlets import engine, syslet
from threadlets.atoms import buffer, recv
from waiting import eventually

from .harness import within_deadline

Pair = Callable[..., tuple[socket.socket, socket.socket]]


@syslet
def _recv(fd):
    data = buffer(4096)
    n = yield recv(fd, data)
    return data[:n]


@pytest.mark.parametrize("tasks", ["native", "asyncio"])
def test_cancellation_has_its_message_and_is_counted_once(
    engine_kind: str, pair: Pair, tasks: Any
) -> None:
    """With native tasks and with asyncio's, CancelledError has its message and counts once."""
    reader, _ = pair()

    async def main() -> None:
        task = asyncio.create_task(_recv(reader))
        await eventually(lambda: engine().in_flight == 1)
        assert task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        assert task.cancelled()
        assert 1 == task.cancelling()

    within_deadline(main(), tasks=tasks)


def test_exception_thrown_into_a_program_ends_it(engine_kind: str, pair: Pair) -> None:
    """An exception that is thrown into the coroutine ends the program, without an await."""
    reader, _ = pair()

    async def main() -> None:
        for error in (asyncio.CancelledError(), KeyError("by hand")):
            coroutine = _recv(reader)
            coroutine.send(None)
            with pytest.raises(type(error)):
                coroutine.throw(error)
        await eventually(lambda: engine().in_flight == 0)

    within_deadline(main())
