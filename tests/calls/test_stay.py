"""`stay`: a task that is resumed on the thread where it is, wherever the loop goes meanwhile."""

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

from .harness import Gate, until

# A worker that has nothing to do ends after a second.
IDLE_S = 1.5


@asynccontextmanager
async def home_blocked() -> AsyncIterator[Gate]:
    """Keep the home thread blocked by a function, so that another one runs the loop."""
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
    await until(lambda: threading.get_ident() == home)


class Staying:
    """A task that stays on the thread where it begins, and goes on there when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.threads: list[int] = []

    def note(self) -> None:
        self.threads.append(threading.get_ident())

    async def wait(self) -> None:
        """Wait until it is told to go on, and then in several other ways."""
        self.note()
        self.begun.set()
        await self.go_on.wait()
        self.note()
        for wait in (asyncio.sleep(0), asyncio.sleep(0.001), threadlets.call(time.sleep, 0.001)):
            await wait
            self.note()


def test_a_task_stays_on_its_thread(run: Any) -> None:
    """It began while home was blocked; when home has the loop again, others go on there, and it does not."""

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
    """What is left last unbinds it: blocks may be within each other."""

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
    """Its thread waits for it, and goes away afterwards."""

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
        await until(lambda: threadlets.stats()["threads"] == 0)

    run(main())


def test_a_task_that_stays_at_home_waits_for_it(run: Any) -> None:
    """While home is blocked it does not go on, and others do."""

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
            # Where the function was called on another thread, home is free.
            if gate.thread == home:
                assert 1 == len(staying.threads)
        await task
        assert set(staying.threads) == {home}

    run(main())


def test_cancellations_arrive_where_a_task_stays(run: Any) -> None:
    """Also that of the loop's end."""
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
    """sqlite3's connections are refused by every thread but their own."""

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
