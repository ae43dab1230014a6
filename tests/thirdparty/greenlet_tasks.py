"""Tasks that are suspended in greenlets, as SQLAlchemy's are, without SQLAlchemy."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from blocking import in_one_thread

greenlet = pytest.importorskip("greenlet", reason="greenlet is not installed")


async def spawn(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a greenlet, and await what the function passes to `wait`."""
    child = greenlet.greenlet(functools.partial(function, *args))
    child.gr_context = contextvars.copy_context()
    awaitable = child.switch()
    while not child.dead:
        try:
            value = await awaitable
        except BaseException as error:
            awaitable = child.throw(error)
        else:
            awaitable = child.switch(value)
    return awaitable


def wait(awaitable: Awaitable[Any]) -> Any:
    """Inside a spawned function, have its task await something."""
    return greenlet.getcurrent().parent.switch(awaitable)


class Session:
    """Tasks that are suspended in greenlets until `end`, and have to be resumed on their threads."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.threads: list[int] = []
        self.tasks: list[asyncio.Task[int]] = []

    async def begin(self, n_tasks: int = 20) -> None:
        """Make tasks, and wait until they are all suspended."""
        n_begun = len(self.threads) + n_tasks
        self.tasks += [asyncio.create_task(spawn(self._body, n)) for n in range(n_tasks)]
        while len(self.threads) < n_begun:
            await asyncio.sleep(0)

    def _body(self, number: int) -> int:
        with in_one_thread() as note:
            self.threads.append(note())
            wait(self.go_on.wait())
            note()
            wait(asyncio.sleep(0.001))
            note()
        return number

    async def end(self) -> None:
        """Resume the tasks, and wait for their ends."""
        self.go_on.set()
        await asyncio.gather(*self.tasks)
