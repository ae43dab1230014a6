"""Greenlets and the home thread: while home is blocked, while it has greenlets, and afterwards."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import threadlets
from blocking import (
    Call,
    Gate,
    blocked,
    call_inline,
    in_one_thread,
    is_home,
    others_block,
    pause,
    until_home,
)
from greenlet_tasks import Session, greenlet, spawn, wait

N_TASKS = 20
# A worker that has nothing to do ends after a second.
IDLE_S = 1.5


async def call_once_quick(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function with a history of quick calls, so that it is called inline."""
    open_gate = Gate()
    open_gate.open()
    for _ in range(200):
        await threadlets.call(open_gate.wait)
    return await threadlets.call(function, *args)


@pytest.fixture(params=[call_inline, call_once_quick], ids=["inline", "once-quick"])
def call_at_home(request: pytest.FixtureRequest) -> Call:
    """Return a function that calls another one on the thread that runs the loop."""
    call: Call = request.param
    return call


# Steps of asyncio's tasks are handles like any other.
_asyncios_tasks = pytest.param(
    "asyncio's tasks", marks=pytest.mark.xfail(reason="only native tasks belong to a thread")
)


@pytest.fixture(params=["plain", "debug", _asyncios_tasks])
def run_ours(request: pytest.FixtureRequest, run_threadlets: Any) -> Any:
    """Return a runner on our loop: plain, in debug mode, and with asyncio's own tasks."""
    tasks = "asyncio" if request.param == "asyncio's tasks" else "native"
    return functools.partial(run_threadlets, debug=request.param == "debug", tasks=tasks)


def test_tasks_of_another_thread_are_resumed_there(run_ours: Any, call_at_home: Call) -> None:
    """Tasks that began while home was blocked stay on their thread when home has the role again."""

    async def main() -> set[bool]:
        session = Session()
        async with blocked(call_at_home):
            assert not is_home(threading.get_ident())
            await session.begin()
        await until_home()
        await session.end()
        return {is_home(thread) for thread in session.threads}

    assert {False} == run_ours(main())


def test_tasks_of_another_thread_outlast_its_idle_time(run_ours: Any) -> None:
    """The thread waits for its tasks although it has nothing else to do."""

    async def main() -> None:
        session = Session()
        async with blocked(call_inline):
            await session.begin()
        await until_home()
        await asyncio.sleep(IDLE_S)
        await session.end()

    run_ours(main())


def test_tasks_of_home_wait_for_it(run_ours: Any) -> None:
    """Tasks that are suspended at home wait while home is blocked; everything else goes on."""

    async def main() -> None:
        session = Session()
        await session.begin()
        async with blocked(call_inline) as gate:
            session.go_on.set()
            for _ in range(20):
                await asyncio.sleep(0.001)
            # If the function began beside the loop, home is free.
            if is_home(gate.thread):
                assert not any(task.done() for task in session.tasks)
        await session.end()
        assert all(is_home(thread) for thread in session.threads)

    run_ours(main())


def test_tasks_of_two_threads_talk(run_ours: Any, call_at_home: Call) -> None:
    """A task of home and one of another thread exchange messages while functions block."""
    n_rounds = 100

    def talk(ours: asyncio.Queue[int], theirs: asyncio.Queue[int]) -> int:
        total = 0
        with in_one_thread() as note:
            for number in range(n_rounds):
                note()
                ours.put_nowait(number)
                total += wait(theirs.get())
                if number % 10 == 0:
                    wait(threadlets.call(pause, 0.001))
        return total

    async def main() -> list[int]:
        one, other = asyncio.Queue[int](), asyncio.Queue[int]()
        async with blocked(call_at_home):
            tasks = [asyncio.create_task(spawn(talk, one, other))]
            await asyncio.sleep(0)
        await until_home()
        async with others_block(threadlets.call):
            tasks.append(asyncio.create_task(spawn(talk, other, one)))
            return await asyncio.gather(*tasks)

    assert run_ours(main()) == [sum(range(n_rounds))] * 2


def test_threads_with_greenlets_block_in_turn(run_ours: Any, call_at_home: Call) -> None:
    """Sessions begin on every thread that gets the role, and end in another order."""

    async def main() -> None:
        sessions = [Session() for _ in range(4)]
        await sessions[0].begin()
        async with blocked(call_at_home):
            await sessions[1].begin()
            async with blocked(call_at_home):
                await sessions[2].begin()
                await sessions[1].begin(3)
            async with blocked(call_at_home):
                await sessions[3].begin()
        for session in (sessions[2], sessions[0], sessions[3], sessions[1]):
            async with blocked(call_at_home):
                session.go_on.set()
                await asyncio.sleep(0.001)
            await session.end()

    run_ours(main())


def test_tasks_of_another_thread_are_cancelled_there(run_ours: Any, call_at_home: Call) -> None:
    """A deadline cancels them as well, and they are cancelled also while their thread is idle."""
    journal: list[bool] = []

    def body(begun: asyncio.Event) -> None:
        with in_one_thread() as note:
            thread = note()
            begun.set()
            try:
                wait(asyncio.sleep(60))
            finally:
                journal.append(note() == thread)
                wait(asyncio.sleep(0.001))
                note()

    async def main() -> None:
        begun = [asyncio.Event() for _ in range(3)]
        async with blocked(call_at_home):
            task, late, dropped = (asyncio.create_task(spawn(body, it)) for it in begun)
            for it in begun:
                await it.wait()
        await until_home()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(late, 0.01)
        del dropped  # The task is cancelled when the loop ends.

    run_ours(main())
    assert [True] * 3 == journal


def test_a_loop_ends_with_tasks_on_every_thread(run_ours: Any, call_at_home: Call) -> None:
    """Tasks are cancelled on their greenlets' threads, and none of them is left."""
    journal: list[bool] = []

    def body(n_begun: list[int]) -> None:
        thread = threading.get_ident()
        n_begun.append(thread)
        try:
            wait(asyncio.sleep(60))
        finally:
            journal.append(threading.get_ident() == thread)

    async def main() -> list[asyncio.Task[None]]:
        n_begun: list[int] = []
        tasks = [asyncio.create_task(spawn(body, n_begun)) for _ in range(N_TASKS)]
        await asyncio.sleep(0)
        async with blocked(call_at_home):
            tasks += [asyncio.create_task(spawn(body, n_begun)) for _ in range(N_TASKS)]
            while len(n_begun) < len(tasks):
                await asyncio.sleep(0)
        return tasks

    tasks = run_ours(main())
    assert all(task.cancelled() for task in tasks)
    assert [True] * 2 * N_TASKS == journal


# -- functions that are called inline, or are not -------------------------------------------------


@asynccontextmanager
async def a_suspended_greenlet() -> AsyncIterator[Any]:
    """Keep a greenlet suspended on this thread."""
    child = greenlet.greenlet(lambda: greenlet.getcurrent().parent.switch())
    child.switch()
    yield child
    child.switch()


async def until_called_at_home() -> None:
    """Call a quick function until it is called on the thread that runs the loop."""
    while await threadlets.call(threading.get_ident) != threading.get_ident():
        await asyncio.sleep(0)


def test_a_thread_with_greenlets_calls_no_function_inline(run_ours: Any) -> None:
    """An inline call might block the thread, and then its greenlets could not be resumed."""

    async def main() -> None:
        await until_called_at_home()
        async with a_suspended_greenlet():
            for _ in range(100):
                assert not is_home(await threadlets.call(threading.get_ident))
        await until_called_at_home()
        assert is_home(threading.get_ident())

    run_ours(main())


def test_a_greenlet_that_was_dropped_is_not_waited_for(run_ours: Any) -> None:
    """The greenlet ends on its thread with its last reference, and calls are inline again."""
    journal: list[int] = []

    async def main() -> None:
        await until_called_at_home()
        held = begun(journal)
        assert not is_home(await threadlets.call(threading.get_ident))
        held.clear()
        assert [True] == [is_home(thread) for thread in journal]
        await until_called_at_home()

    run_ours(main())


def test_a_greenlet_that_another_thread_dropped_is_not_waited_for(run_ours: Any) -> None:
    """A greenlet cannot end on another thread, so its own thread ends it."""
    journal: list[int] = []

    async def main() -> None:
        held = begun(journal)
        assert not is_home(await threadlets.call(threading.get_ident))
        await asyncio.to_thread(held.clear)
        assert [] == journal
        await until_called_at_home()
        assert [True] == [is_home(thread) for thread in journal]

    run_ours(main())


def begun(journal: list[int]) -> list[Any]:
    """Return the only reference to a suspended greenlet of this thread, which notes where it ends."""

    def body() -> None:
        try:
            greenlet.getcurrent().parent.switch()
        finally:
            journal.append(threading.get_ident())

    child = greenlet.greenlet(body)
    child.switch()
    return [child]


def test_blocking_does_not_move_the_loop(run_ours: Any) -> None:
    """While a thread has greenlets, the role stays on it, however often functions block."""

    async def observe(threads: set[int]) -> None:
        while True:
            threads.add(threading.get_ident())
            await asyncio.sleep(0)

    async def main() -> None:
        threads: set[int] = set()
        async with a_suspended_greenlet(), others_block(threadlets.call):
            observer = asyncio.create_task(observe(threads))
            await asyncio.sleep(0.2)
            observer.cancel()
        assert threads == {threading.get_ident()}

    run_ours(main())
