"""`stay`: a task is resumed on the thread where it called it, wherever the role goes."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import threadlets
from waiting import eventually

from .harness import Gate

# A worker that has nothing to do ends after a second.
IDLE_S = 1.5


@asynccontextmanager
async def home_blocked() -> AsyncIterator[Gate]:
    """Block the home thread in a function, so that another worker runs the loop."""
    gate = Gate()
    pool = threadlets.Pool(start="inline")

    async def block() -> None:
        await pool.call(gate)

    task = asyncio.create_task(block())
    await gate.entered.wait()
    yield gate
    gate.open()
    await task


async def until_home() -> None:
    """Wait until the home thread, which is the main one here, runs the loop."""
    home = threading.main_thread().ident
    await eventually(lambda: threading.get_ident() == home)


class Staying:
    """The body of a task that stays on its thread: it waits in several ways and notes its threads."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.threads: list[int] = []

    def note(self) -> None:
        self.threads.append(threading.get_ident())

    async def wait(self) -> None:
        """Wait for `go_on`, and then in several other ways; note the thread after each wait."""
        self.note()
        self.begun.set()
        await self.go_on.wait()
        self.note()
        for wait in (asyncio.sleep(0), asyncio.sleep(0.001), threadlets.call(time.sleep, 0.001)):
            await wait
            self.note()


def test_a_task_stays_on_its_thread(run: Any) -> None:
    """A task that stays on a worker does so when home has the role again; others go on at home."""

    async def main() -> None:
        home = threading.get_ident()
        staying = Staying()

        async def stay() -> None:
            with threadlets.stay():
                await staying.wait()

        async with home_blocked():
            task = asyncio.create_task(stay())
            await staying.begun.wait()
        await until_home()
        staying.go_on.set()
        await task
        assert 1 == len(set(staying.threads))
        assert staying.threads[0] != home

    run(main())
    run(main(), debug=True)


def test_after_the_block_a_task_goes_home(run: Any) -> None:
    """Blocks may be nested: the end of the outermost one unbinds the task."""

    async def main() -> None:
        staying = Staying()

        async def stay() -> None:
            with threadlets.stay():
                with threadlets.stay():
                    staying.note()
                await staying.wait()
            await until_home()

        async with home_blocked():
            task = asyncio.create_task(stay())
            await staying.begun.wait()
        await until_home()
        staying.go_on.set()
        await task
        assert 1 == len(set(staying.threads))

    run(main())


def test_without_a_block_a_task_stays_until_it_ends(run: Any) -> None:
    """The task's thread waits for it, and ends afterwards."""

    async def main() -> None:
        staying = Staying()

        async def stay() -> None:
            threadlets.stay()
            await staying.wait()

        async with home_blocked():
            task = asyncio.create_task(stay())
            await staying.begun.wait()
        await until_home()
        await asyncio.sleep(IDLE_S)
        staying.go_on.set()
        await task
        assert 1 == len(set(staying.threads))
        await eventually(lambda: threadlets.stats()["threads"] == 0)

    run(main())


def test_a_task_that_stays_at_home_waits_for_it(run: Any) -> None:
    """While home is blocked the task is not resumed, and other tasks are."""

    async def main() -> None:
        home = threading.get_ident()
        staying = Staying()

        async def stay() -> None:
            with threadlets.stay():
                await staying.wait()

        task = asyncio.create_task(stay())
        await staying.begun.wait()
        async with home_blocked() as gate:
            staying.go_on.set()
            for _ in range(10):
                await asyncio.sleep(0.001)
            # If the function was called on another thread, home is free.
            if gate.thread == home:
                assert 1 == len(staying.threads)
        await task
        assert set(staying.threads) == {home}

    run(main())


def test_cancellations_arrive_where_a_task_stays(run: Any) -> None:
    """A bound task is cancelled on its own thread, also by the end of the loop."""
    journal: list[bool] = []

    async def stay(begun: asyncio.Semaphore) -> None:
        threadlets.stay()
        thread = threading.get_ident()
        begun.release()
        try:
            await asyncio.sleep(60)
        finally:
            journal.append(threading.get_ident() == thread)
            await asyncio.sleep(0.001)
            journal.append(threading.get_ident() == thread)

    async def main() -> asyncio.Task[None]:
        begun = asyncio.Semaphore(0)
        async with home_blocked():
            cancelled, left = (asyncio.create_task(stay(begun)) for _ in range(2))
            await begun.acquire()
            await begun.acquire()
        await until_home()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        return left

    assert run(main()).cancelled()
    assert [True] * 4 == journal


def test_a_connection_of_one_thread_lasts_across_awaits(run: Any) -> None:
    """sqlite3 refuses a connection on any thread but the one that made it."""

    async def count(begun: asyncio.Event, go_on: asyncio.Event) -> int:
        with threadlets.stay():
            connection = sqlite3.connect(":memory:")
            connection.execute("CREATE TABLE word (text TEXT)")
            begun.set()
            await go_on.wait()
            for number in range(10):
                connection.execute("INSERT INTO word VALUES (?)", (str(number),))
                await asyncio.sleep(0.001)
            (n_words,) = connection.execute("SELECT count(*) FROM word").fetchone()
            connection.close()
            return int(n_words)

    async def main() -> list[int]:
        begun = [asyncio.Event() for _ in range(3)]
        go_on = asyncio.Event()
        tasks = [asyncio.create_task(count(begun[0], go_on))]
        await begun[0].wait()
        async with home_blocked():
            tasks += [asyncio.create_task(count(it, go_on)) for it in begun[1:]]
            for it in begun:
                await it.wait()
        await until_home()
        go_on.set()
        return await asyncio.gather(*tasks)

    assert [10] * 3 == run(main())
