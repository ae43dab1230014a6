"""Blocked functions: their names, their threads and their stacks."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import time
import traceback
from collections.abc import Callable, Container
from typing import Any

from threadlets._core import Dispatcher
from threadlets.scopes.ledger import repr_of


@dataclasses.dataclass(frozen=True)
class BlockedFunction:
    """A function that blocks its thread; it cannot be stopped."""

    name: str
    """Its qualified name."""
    thread: str
    """The name of the thread that it blocks."""
    seconds: float
    """How long it has been blocked."""
    stack: str
    """Its stack, innermost frame last; empty if it has just returned."""

    def __str__(self) -> str:
        return f"{self.name} for {self.seconds:.1f} s, in thread {self.thread!r}:\n{self.stack}"


class DrainTimeoutError(TimeoutError):
    """Requests of a scope have not ended in time; the message names them.

    `blocked` lists the functions that are blocked, each with its stack.
    """

    def __init__(self, message: str, blocked: list[BlockedFunction]) -> None:
        super().__init__(message)
        self.blocked = blocked


def blocked_functions(
    loop: Dispatcher, tasks: Container[asyncio.Task[Any]] | None = None
) -> list[BlockedFunction]:
    """List the blocked functions of a loop; with `tasks`, only those that these tasks await."""
    now = time.monotonic()
    return [
        BlockedFunction(_name_of(function), thread_name(thread), now - since, stack_at(thread))
        for function, thread, since, _, task in loop._blocked()
        if tasks is None or task in tasks
    ]


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr_of(function)


def thread_name(ident: int | None) -> str:
    """Return the name of the thread with an identity; "?" once it is gone."""
    return next((it.name for it in threading.enumerate() if it.ident == ident), "?")


def stack_at(ident: int | None) -> str:
    """Return a thread's stack, innermost frame last; empty if there is no such thread."""
    frame = sys._current_frames().get(ident) if ident is not None else None
    return "" if frame is None else "".join(traceback.format_stack(frame)).rstrip()
