"""Interleavings that went wrong once, each as the smallest program that showed the fault."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets import Pool, ThreadletExecutor
from waiting import wait_until

from .harness import DEADLINE_S, Gate, counts, line, outcome

pytestmark = pytest.mark.starts("inline", "beside")


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Have threads take the GIL from each other as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_function_that_returns_while_its_successor_joins_is_not_forgotten(
    run: Any, eager_switching: None
) -> None:
    """The successor runs Python hooks before its first poll; a function may return meanwhile."""

    async def main() -> float:
        started = time.perf_counter()
        for number in range(20):
            await threadlets.call(time.sleep, number * 10e-6)
        return time.perf_counter() - started

    for _ in range(30):
        assert run(main()) < 1


def test_exception_on_another_thread_leaves_no_thread_waiting_for_the_role(script: Any) -> None:
    """The request that raises is no boundary; home gets the role at the next poll."""
    process = script(
        """
        gate = threading.Event()

        def has_returned():
            stats = threadlets.stats()
            return stats["returning"] or not stats["blocked"]

        def bad():
            gate.set()
            wait_until(has_returned)
            raise SystemExit(3)

        async def main():
            asyncio.get_running_loop().call_soon(bad)
            await threadlets.call(gate.wait)

        threadlets.run(main())
        """
    )
    status, _, stderr = outcome(process)
    assert (3, "") == (status, stderr)


def test_ctrl_c_in_debug_mode_cancels_the_main_task_while_home_is_blocked(script: Any) -> None:
    """The handler runs on the home thread, which is not the dispatcher's thread at that moment."""
    import signal

    process = script(
        """
        async def main():
            gate = threading.Event()
            blocked = asyncio.create_task(threadlets.call(gate.wait))
            await eventually(lambda: threadlets.stats()["blocked"])
            print("ready")
            try:
                await asyncio.sleep(60)
            finally:
                print("cancelled")
                gate.set()
                await blocked

        threadlets.run(main(), debug=True)
        """
    )
    assert "ready" == line(process)
    process.send_signal(signal.SIGINT)
    status, stdout, _ = outcome(process)
    assert (-signal.SIGINT, "cancelled") == (status, stdout.strip())


def test_executor_call_that_waits_for_a_thread_can_be_cancelled(start: str) -> None:
    """The call has left its queue, and was put back or queued beside: it does not run yet."""
    gate, entered = threading.Event(), threading.Event()
    executor = ThreadletExecutor(threads_max=1)
    first = executor.submit(lambda: (entered.set(), gate.wait(DEADLINE_S)))
    assert entered.wait(DEADLINE_S)
    second = executor.submit(int)
    dispatcher = executor._threads.dispatcher
    wait_until(lambda: executor.stats()["calls_held"] or executor._pool._counts(dispatcher)[0] == 2)
    executor.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    gate.set()
    assert first.result(DEADLINE_S)
    executor.shutdown()
    assert executor.stats()["calls_held"] >= (1 if start == "inline" else 0)


@pytest.mark.parametrize("blocks", [False, True])
def test_executor_outlives_what_callbacks_raise(blocks: bool, caplog: Any) -> None:
    """An executor's threads have no program to end; the error is logged."""

    def exits(_future: object) -> None:
        raise SystemExit(1)

    with ThreadletExecutor() as executor:
        gate = threading.Event()
        future = executor.submit(gate.wait, DEADLINE_S)
        future.add_done_callback(exits)
        if blocks:
            assert 0 == executor.submit(int).result(DEADLINE_S)
        gate.set()
        assert future.result(DEADLINE_S)
        for _ in range(3):
            assert 0 == executor.submit(int).result(DEADLINE_S)


def test_executor_reports_a_future_that_other_code_has_settled(caplog: Any) -> None:
    """The function is not called, and its place is free again."""
    gate, entered = threading.Event(), threading.Event()
    with ThreadletExecutor(max_workers=1) as executor:
        executor.submit(lambda: (entered.set(), gate.wait(DEADLINE_S)))
        assert entered.wait(DEADLINE_S)
        settled = executor.submit(int)
        settled.set_result(5)
        gate.set()
        assert 7 == executor.submit(int, "7").result(DEADLINE_S)
    assert "InvalidStateError" in caplog.text


def test_pool_cancels_abandonable_calls_that_are_blocked(run: Any) -> None:
    """The callers are cancelled at once, as if their tasks had been cancelled."""
    pool = Pool()

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(pool.call(gate, abandon_on_cancel=True))
        await gate.entered.wait()
        assert 1 == pool.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()

    run(main())


def test_call_that_is_closed_while_it_waits_gives_its_place_up(run: Any) -> None:
    """A call gives its place back, however its await ends."""
    pool = Pool(limit=1)

    async def main() -> None:
        gate = Gate()
        blocked = asyncio.create_task(pool.call(gate))
        await gate.entered.wait()
        waiting = pool.call(int)
        waiting.send(None)
        waiting.close()
        gate.open()
        await blocked
        assert 0 == await asyncio.wait_for(pool.call(int), 5)
        assert 0 == pool.stats()["running"]

    run(main())


def test_call_that_waited_for_a_thread_counts_once(run: Any) -> None:
    """A call counts once, however often it has tried to begin."""
    pool = Pool()

    async def main() -> None:
        gates = [Gate() for _ in range(4)]
        tasks = [asyncio.create_task(pool.call(gate)) for gate in gates]
        for gate in gates:
            gate.open()
        await asyncio.gather(*tasks)
        assert {"running": 0, "queued": 0, "calls": 4, "cancelled": 0} == counts(pool)

    run(main(), threads_max=1)


def test_pools_that_are_forgotten_leave_nothing_behind(run: Any) -> None:
    """A program may make a pool for each request."""

    async def main() -> int:
        for _ in range(1000):
            await Pool(limit=1).call(int)
        before = rss_bytes()
        for _ in range(50_000):
            await Pool(limit=1).call(int)
        return rss_bytes() - before

    # At most 40 bytes for each pool.
    assert run(main()) < 50_000 * 40


def rss_bytes() -> int:
    """Return the process's resident memory; `getrusage` gives its maximum so far."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_calls_of_calls_are_freed_at_any_depth() -> None:
    """Nested calls are freed down to the innermost one, without recursing as deep as they are."""

    class Argument:
        pass

    argument = Argument()
    freed = weakref.ref(argument)
    call: Any = threadlets.call(print, argument)
    del argument
    for _ in range(200_000):
        call, previous = threadlets.call(print, call), call
        if previous is not None:
            # It is never awaited; closing it prevents the warning.
            previous.close()
    call.close()
    assert freed() is not None
    del call, previous
    gc.collect()
    assert freed() is None


def test_other_loop_in_an_executors_function_is_refused(run: Any) -> None:
    """The running loop is not the one whose dispatcher this thread was."""

    async def inner() -> None:
        with pytest.raises(RuntimeError, match=r"threadlets\.run"):
            await threadlets.call(int)

    async def main() -> None:
        await asyncio.to_thread(asyncio.run, inner())

    run(main(), executor="threadlets")
