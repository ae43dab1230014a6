"""Pools: limits, priorities, counting, cancelling together."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import threadlets
from threadlets import BATCH, INTERACTIVE, NORMAL, Pool
from waiting import eventually

from .harness import Gate, counts

pytestmark = pytest.mark.starts("inline", "beside")


def test_limit_is_never_exceeded_and_order_is_kept(run: Any) -> None:
    """Of ten calls three run at once, and they start first in, first out."""
    pool = Pool("three", limit=3)
    started: list[int] = []

    async def main() -> None:
        gates = [Gate() for _ in range(10)]

        def work(number: int) -> int:
            started.append(number)
            gates[number]()
            return number

        tasks = [asyncio.create_task(pool.call(work, number)) for number in range(10)]
        for number, gate in enumerate(gates):
            await gate.entered.wait()
            await eventually(lambda at=number: pool.stats()["running"] == min(3, 10 - at))  # type: ignore[misc]
            assert len(started) <= number + 3
            gate.open()
            await tasks[number]
        assert list(range(10)) == started
        assert {"running": 0, "queued": 0, "calls": 10, "cancelled": 0} == counts(pool)

    run(main())


def test_limit_can_be_changed_while_calls_wait(run: Any) -> None:
    """A higher limit lets waiting calls start at once."""
    pool = Pool(limit=1)

    async def main() -> None:
        first, second = Gate(), Gate()
        tasks = [asyncio.create_task(pool.call(gate)) for gate in (first, second)]
        await first.entered.wait()
        assert {"running": 1, "queued": 1, "calls": 2, "cancelled": 0} == counts(pool)
        pool.limit = 2
        await second.entered.wait()
        first.open()
        second.open()
        await asyncio.gather(*tasks)
        pool.limit = None
        assert pool.limit is None

    run(main())


def test_cancelled_waiter_gives_its_place_to_the_next(run: Any) -> None:
    """A call that was resumed and is cancelled before its step gives its place away as well."""
    pool = Pool(limit=1)

    async def main() -> None:
        gate = Gate()
        blocked = asyncio.create_task(pool.call(gate))
        await gate.entered.wait()
        waiting = [asyncio.create_task(pool.call(int)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        gate.open()
        await blocked
        # The place is the second call's now, whose coroutine has not been resumed yet.
        await eventually(lambda: pool.stats()["queued"] < 2)
        waiting[1].cancel()
        assert 0 == await waiting[2]
        assert 0 == pool.stats()["running"]

    run(main())


def test_pool_is_cancelled_as_a_whole(run: Any) -> None:
    """Waiting calls never start; blocked ones are cancelled when they return."""
    pool = Pool(limit=1)

    async def main() -> None:
        gate = Gate()
        called: list[int] = []
        tasks = [asyncio.create_task(pool.call(gate))]
        await gate.entered.wait()
        tasks += [asyncio.create_task(pool.call(called.append, 1)) for _ in range(5)]
        tasks += [
            asyncio.create_task(pool.call(called.append, 1, abandon_on_cancel=True))
            for _ in range(5)
        ]
        other = asyncio.create_task(Pool().call(int))
        await asyncio.sleep(0)
        assert 11 == pool.cancel("enough")
        gate.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [asyncio.CancelledError] * 11 == [type(result) for result in results]
        assert [] == called
        assert 0 == await other
        assert {"running": 0, "queued": 0, "calls": 11, "cancelled": 11} == counts(pool)

    run(main())


def test_interactive_calls_pass_normal_ones_and_those_pass_batch_ones(run: Any) -> None:
    """All calls wait for the only thread; when it is back they start in order of priority."""
    order: list[str] = []

    async def main() -> None:
        gate = Gate()
        last = Gate()
        blocked = [asyncio.create_task(threadlets.call(it)) for it in (gate, last)]
        await last.entered.wait()
        pools = [Pool("batch", priority=BATCH), Pool("normal"), Pool("late", priority=BATCH)]
        tasks = []
        for pool in pools:
            tasks += [asyncio.create_task(pool.call(order.append, pool.name)) for _ in range(3)]
        # Calls of the lowest priority wait for the thread only once nothing else is ready.
        await asyncio.sleep(0.05)
        assert [] == order
        pools[2].priority = INTERACTIVE
        gate.open()
        await asyncio.gather(*tasks)
        last.open()
        await asyncio.gather(*blocked)

    run(main(), threads_max=2)
    assert ["late"] * 3 + ["normal"] * 3 + ["batch"] * 3 == order


def test_batch_calls_let_ready_work_pass_and_come_through_all_the_same(
    run: Any, start: str
) -> None:
    """A BATCH call starts in the end, however much other work there is."""
    pool = Pool(priority=BATCH)

    async def main() -> int:
        n_ticks = 0
        task = asyncio.create_task(pool.call(int))
        while not task.done():
            asyncio.get_running_loop().call_soon(int)
            await asyncio.sleep(0)
            n_ticks += 1
            # Beside the loop, a thread has to get the GIL from it first.
            assert n_ticks < 100 or "beside" == start
        return n_ticks

    assert run(main()) > 1


def test_failing_calls_give_their_places_back(run: Any) -> None:
    """A call gives its place back, however it ends."""
    pool = Pool(limit=1)

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await pool.call(lambda: 1 / 0)
        call = pool.call(int)
        call.close()
        assert 0 == await pool.call(int)

    run(main())


def test_pool_serves_one_loop_after_another_and_not_two_at_once(run: Any) -> None:
    """A pool outlives the loops of its program, but refuses a second loop at the same time."""
    pool = Pool(limit=2)

    async def use() -> int:
        return await pool.call(int)

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(pool.call(gate))
        await gate.entered.wait()
        outcome: list[BaseException] = []

        def other() -> None:
            try:
                threadlets.run(use())
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        await threadlets.call(thread.join)
        assert "another event loop" in str(outcome[0])
        gate.open()
        await task

    assert 0 == run(use())
    run(main())
    assert 0 == run(use())


def test_pool_says_what_it_is() -> None:
    """The repr has the name, the limit and the priority."""
    assert "<Pool db limit=8 priority=BATCH>" == repr(Pool("db", limit=8, priority=BATCH))
    assert (None, NORMAL, None) == (Pool().limit, Pool().priority, Pool().name)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"limit": 0}, ValueError),
        ({"limit": -1}, ValueError),
        ({"limit": "many"}, TypeError),
        ({"priority": 7}, ValueError),
    ],
)
def test_impossible_pools_are_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    """The error is raised when the pool is made."""
    with pytest.raises(error):
        Pool(**arguments)


def test_cancel_outside_a_loop_is_refused() -> None:
    """Cancelling from outside would reach into another thread's loop."""
    with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
        Pool().cancel()
