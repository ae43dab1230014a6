"""Helpers: functions that block beside the tasks of a test, ways to call them, and a gate."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import threadlets
from threadlets.frameworks import use_threadlets_in_anyio

DEADLINE_S = 20.0
Call = Callable[..., Awaitable[Any]]


def call_by_default_executor(function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
    """Call a function by the loop's own executor."""
    return asyncio.get_running_loop().run_in_executor(None, function, *args)


def call_by_anyio(function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
    """Call a function by anyio, on a worker thread or as a threadlet."""
    from anyio import to_thread

    return to_thread.run_sync(function, *args)


@contextlib.contextmanager
def anyio_in_use(replace: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """Replace anyio's worker threads, or leave them; skip without anyio."""
    pytest.importorskip("anyio", reason="anyio is not installed")
    with replace():
        yield


def call_inline(function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
    """Call a function on the stack of the coroutine that awaits it, so that its thread blocks."""
    return inline_pool().call(function, *args)


def inline_pool() -> threadlets.Pool:
    """Return a pool whose calls start inline, whatever is known of their functions."""
    try:
        return threadlets.Pool(start="inline")
    except TypeError:
        return threadlets.Pool()  # For a version without `start`, whose calls all start inline.


@dataclass(frozen=True)
class Way:
    """A loop, and how functions that may block are called on it."""

    name: str
    loop_factory: Callable[[], asyncio.AbstractEventLoop]
    call: Call
    #: A context that is entered meanwhile.
    in_use: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext

    def __str__(self) -> str:
        return self.name


_anyio = functools.partial(anyio_in_use, contextlib.nullcontext)
_anyio_of_threadlets = functools.partial(anyio_in_use, use_threadlets_in_anyio)
_threadlets_executor = functools.partial(threadlets.new_event_loop, executor="threadlets")
WAYS = (
    Way("asyncio-to_thread", asyncio.SelectorEventLoop, asyncio.to_thread),
    Way("asyncio-anyio", asyncio.SelectorEventLoop, call_by_anyio, _anyio),
    Way("call", threadlets.new_event_loop, threadlets.call),
    Way("inline", threadlets.new_event_loop, call_inline),
    Way("to_thread", threadlets.new_event_loop, asyncio.to_thread),
    Way("executor", threadlets.new_event_loop, call_by_default_executor),
    Way("threadlets-to_thread", _threadlets_executor, asyncio.to_thread),
    Way("threadlets-executor", _threadlets_executor, call_by_default_executor),
    Way("anyio", threadlets.new_event_loop, call_by_anyio, _anyio_of_threadlets),
)


def pause(seconds: float) -> float:
    """Block for `seconds`, or not at all if they are 0; return them."""
    if seconds:
        time.sleep(seconds)
    return seconds


def block() -> None:
    """Block for a millisecond."""
    time.sleep(0.001)


@asynccontextmanager
async def others_block(call: Call, *, always: bool = False) -> AsyncIterator[None]:
    """Have functions of other tasks block: at every call if `always`, else after some quick calls."""
    is_over = False

    async def other(number: int) -> None:
        choice = random.Random(number)
        while not is_over:
            if always:
                await call(block)
            else:
                for _ in range(choice.choice((0, 5, 50))):
                    await call(pause, 0)
                await call(pause, 0.001)
            await asyncio.sleep(choice.choice((0, 0, 0.001)))

    tasks = [asyncio.create_task(other(number)) for number in range(4)]
    try:
        yield
    finally:
        is_over = True
        await asyncio.gather(*tasks)


class Gate:
    """A function that returns at once while the gate is open, and blocks while it is shut."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.entered = asyncio.Event()
        #: The thread of the latest call.
        self.thread: int | None = None

    def wait(self) -> int:
        """Return the thread's identifier, at once or when the gate is opened."""
        self.thread = threading.get_ident()
        if not self._opened.is_set():
            self._loop.call_soon_threadsafe(self.entered.set)
            assert self._opened.wait(DEADLINE_S), "the gate was not opened"
        return self.thread

    def open(self) -> None:
        self._opened.set()

    def shut(self) -> None:
        self._opened.clear()


@asynccontextmanager
async def blocked(call: Call, gate: Gate | None = None) -> AsyncIterator[Gate]:
    """Keep a function of another task blocked; wait at the end until it has returned."""
    gate = gate or Gate()
    gate.shut()
    task = asyncio.ensure_future(_awaited(call(gate.wait)))
    try:
        await gate.entered.wait()
        yield gate
    finally:
        gate.open()
        await task


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def is_home(thread: int | None) -> bool:
    """Return whether a thread is the one on which the tests run their loops.

    Call this each time, and keep no identifier: debug mode warns of threads that a task remembers.
    """
    return thread == threading.main_thread().ident


async def until_home() -> None:
    """Wait until the home thread has the role and runs this task."""
    while not is_home(threading.get_ident()):
        await asyncio.sleep(0)


@contextlib.contextmanager
def in_one_thread() -> Iterator[Callable[[], int]]:
    """Yield a function that notes and returns the calling thread; all calls must be on one thread."""
    threads: list[int] = []

    def note() -> int:
        threads.append(threading.get_ident())
        return threads[-1]

    yield note
    assert len(set(threads)) <= 1, f"{len(set(threads))} threads"
