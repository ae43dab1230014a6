"""Where calls start: beside the loop, until their function is known not to block."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import signal
import threading
import time
from typing import Any
from unittest import mock

import pytest
import threadlets
from threadlets import Pool, ThreadletExecutor
from waiting import eventually, wait_until

from .harness import (
    DEADLINE_S,
    N_ATTEMPTS,
    N_TRIES,
    REFUSE,
    Gate,
    Switch,
    become_inline,
    counts,
    known,
    n_takeovers,
    outcome,
)

#: How many functions may compute at once.
N_COMPUTING_MAX = min(len(os.sched_getaffinity(0)) + 4, 32)


# -- what is learned -------------------------------------------------------------------------------


def test_unknown_function_starts_beside_and_the_role_stays(run: Any) -> None:
    """The loop goes on on its thread while the function blocks another one."""

    async def main() -> None:
        here = threading.get_ident()
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate, 1))
        await gate.entered.wait()
        assert gate.thread != here
        assert threading.get_ident() == here
        gate.open()
        assert 1 == await task
        stats = threadlets.stats()
        assert (1, 0, 0) == (stats["calls_beside"], stats["calls_inline"], stats["mistakes"])
        assert 0 == n_takeovers(stats)

    run(main())


def test_function_that_does_not_block_is_soon_called_inline(
    run: Any, without_forced_switches: None
) -> None:
    """A function is called inline once it has returned eight times in a row without blocking."""

    async def main() -> bool:
        here = threading.get_ident()
        switch = Switch()
        threads = [await threadlets.call(switch) for _ in range(8)]
        assert here not in threads
        n_beside = 8 + await become_inline(lambda: threadlets.call(switch))
        threads = [await threadlets.call(switch) for _ in range(100)]
        assert known("Switch")["inline"] == 1 + threads.count(here)
        if threadlets.stats()["mistakes"]:
            # The system has interrupted a call for longer than a quick one takes.
            return False
        assert {here} == set(threads)
        assert known("Switch") == {
            "function": f"{Switch.__module__}.Switch",
            "start": "inline",
            "inline": 101,
            "beside": n_beside,
            "mistakes": 0,
        }
        assert 101 == threadlets.stats()["calls_inline"]
        return True

    assert any(run(main()) for _ in range(N_ATTEMPTS))


def test_function_that_waits_is_never_called_inline(run: Any) -> None:
    """A function that sleeps starts beside the loop, however short the sleep is."""

    async def main() -> None:
        for _ in range(100):
            await threadlets.call(time.sleep, 0.00001)
        assert 0 == known("sleep")["inline"]

    run(main())


@pytest.mark.parametrize("does", ["blocks", "computes"])
def test_inline_call_that_holds_up_the_loop_is_a_mistake(
    run: Any, does: str, without_forced_switches: None
) -> None:
    """After a mistake the function starts beside until it has been quick eight times as often."""

    async def main() -> None:
        here = threading.get_ident()
        switch = Switch()
        await become_inline(lambda: threadlets.call(switch))
        n_before = threadlets.stats()["mistakes"]
        task = asyncio.create_task(threadlets.call(switch, does))
        if does == "blocks":
            await switch.gate.entered.wait()
            assert threading.get_ident() != here
            switch.gate.open()
        assert await task == here
        stats = threadlets.stats()
        assert (stats["mistakes"] - n_before, n_takeovers(stats)) == (1, int(does == "blocks"))
        row = known("Switch")
        assert ("beside", stats["mistakes"]) == (row["start"], row["mistakes"])
        assert await become_inline(lambda: threadlets.call(switch)) >= 64

    # The role moves for a blocked function only.
    run(main(), preempt_ms=None)


def test_role_moves_less_than_once_in_a_thousand_calls(run: Any) -> None:
    """A function that blocks briefly in one of a hundred calls rarely moves the role."""
    n_calls = 20_000

    def sometimes(number: int) -> None:
        if number % 100 == 0:
            time.sleep(0.0001)

    async def main() -> None:
        for number in range(1, n_calls + 1):
            await threadlets.call(sometimes, number)
        stats = threadlets.stats()
        assert stats["calls_inline"] + stats["calls_beside"] == n_calls
        assert stats["mistakes"] <= n_calls // 1000
        assert n_takeovers(stats) <= n_calls // 1000

    run(main())


def test_call_that_was_withdrawn_says_nothing_of_its_function(run: Any) -> None:
    """A withdrawn call counts neither as a wait nor as a quick return."""

    pool = Pool()

    async def main() -> None:
        gate = Gate()
        blocked = asyncio.create_task(threadlets.call(gate))
        await gate.entered.wait()
        for abandons in (False, True):
            tasks = [
                asyncio.create_task(pool.call(time.sleep, 0, abandon_on_cancel=abandons))
                for _ in range(20)
            ]
            await eventually(lambda: counts(pool)["running"] == 20)
            for task in tasks:
                task.cancel()
        gate.open()
        await blocked
        await eventually(lambda: threadlets.stats()["blocked"] == 0)
        await threadlets.call(int)
        assert "beside" == known("sleep", pool.stats())["start"]

    run(main(), threads_max=1)


def test_call_that_waits_for_a_thread_counts_once(run: Any) -> None:
    """A call that waits for a thread counts once, however often it tries to start."""
    pool = Pool(start="inline")

    async def main() -> None:
        gates = [Gate() for _ in range(10)]
        tasks = [asyncio.create_task(pool.call(gate)) for gate in gates]
        await gates[0].entered.wait()
        await eventually(lambda: counts(pool)["queued"] == 9)
        for gate in gates:
            gate.open()
        await asyncio.gather(*tasks)
        assert 10 == threadlets.stats()["calls_inline"]

    run(main(), threads_max=1)


# -- pools that say where --------------------------------------------------------------------------


def test_pool_says_where_its_calls_start(run: Any, without_forced_switches: None) -> None:
    """A pool's `start` decides, whatever is known of the functions."""
    inline, beside = Pool(start="inline"), Pool(start="beside")

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        for start in ("auto", "inline", "beside"):
            loop._start = start
            assert loop._start == start
            for _ in range(20):
                assert await inline.call(threading.get_ident) == threading.get_ident()
                assert await beside.call(threading.get_ident) != threading.get_ident()
        assert 60 == known("get_ident", inline.stats())["inline"]
        assert 60 == known("get_ident", beside.stats())["beside"]
        gate = Gate()
        task = asyncio.create_task(inline.call(gate))
        await gate.entered.wait()
        gate.open()
        await task
        assert 1 == n_takeovers(threadlets.stats())

    run(main())


@pytest.mark.parametrize("start", ["outside", "", "INLINE"])
def test_unknown_starts_are_refused(start: Any) -> None:
    """The error lists the words that exist."""
    with pytest.raises(ValueError, match="'auto', 'inline' or 'beside'"):
        Pool(start=start)
    loop: Any = threadlets.new_event_loop()
    with pytest.raises(ValueError, match="'auto', 'inline' or 'beside'"):
        loop._start = start
    loop.close()
    with pytest.raises(TypeError):
        Pool(start=None)  # type: ignore[arg-type]


# -- executors -------------------------------------------------------------------------------------


def test_executor_learns_as_well() -> None:
    """An executor calls functions that do not block on its home thread."""
    with ThreadletExecutor() as executor:
        first = executor.submit(threading.get_ident).result(DEADLINE_S)
        home = executor._threads._home
        assert home is not None
        assert first != home.ident
        for _ in range(N_TRIES):
            if executor.submit(threading.get_ident).result(DEADLINE_S) == home.ident:
                break
        row = known("get_ident", executor.stats())
        assert ("inline", 1) == (row["start"], row["inline"])


def test_default_executor_learns_as_well(run: Any) -> None:
    """The history is that of the function itself, which `to_thread` runs in a context."""

    async def main() -> None:
        await become_inline(lambda: asyncio.to_thread(threading.get_ident))
        assert await asyncio.to_thread(threading.get_ident) == threading.get_ident()
        assert "inline" == known("get_ident")["start"]
        await asyncio.to_thread(time.sleep, 0.001)
        assert "beside" == known("sleep")["start"]

    run(main(), executor="threadlets")


# -- how many --------------------------------------------------------------------------------------


def test_a_thousand_functions_block_at_once_and_the_role_stays(run: Any) -> None:
    """There are as many threads as blocked functions, and all calls start at once."""

    async def main() -> None:
        here = threading.get_ident()
        gates = [Gate() for _ in range(1000)]
        tasks = [asyncio.create_task(threadlets.call(gate)) for gate in gates]
        for gate in gates:
            await gate.entered.wait()
        assert threading.get_ident() == here
        assert 1000 == threadlets.stats()["blocked"]
        for gate in gates:
            gate.open()
        await asyncio.gather(*tasks)
        stats = threadlets.stats()
        assert (0, 1000) == (n_takeovers(stats), stats["calls_beside"])

    run(main())


def test_functions_that_do_not_block_share_few_threads(
    run: Any, without_forced_switches: None
) -> None:
    """A thread that runs call after call has one other thread come for the rest, not one for each."""

    async def main() -> None:
        pool = Pool(start="beside")
        await asyncio.gather(*(pool.call(threading.get_ident) for _ in range(100)))
        assert threadlets.stats()["threads_peak"] <= 10

    run(main())


def test_few_functions_compute_at_once_beside_many_that_block(run: Any) -> None:
    """Blocked functions do not count towards the limit, and calls that wait for it run later."""
    may_end = threading.Event()
    begun: list[None] = []

    def compute() -> None:
        begun.append(None)
        while not may_end.is_set():
            pass

    async def main() -> None:
        gates = [Gate() for _ in range(100)]
        blocked = [asyncio.create_task(threadlets.call(gate)) for gate in gates]
        for gate in gates:
            await gate.entered.wait()
        computing = [asyncio.create_task(threadlets.call(compute)) for _ in range(50)]
        await eventually(lambda: len(begun) >= N_COMPUTING_MAX)
        # No more of them begin, however often the limit is checked.
        await asyncio.sleep(0.3)
        n_begun = len(begun)
        may_end.set()
        await asyncio.gather(*computing)
        for gate in gates:
            gate.open()
        await asyncio.gather(*blocked)
        # Some may have begun before the first ones were seen to compute.
        assert n_begun <= N_COMPUTING_MAX + 4
        assert 50 == len(begun)

    run(main())


@pytest.mark.parametrize("threads_max", [1, 2])
def test_starts_are_mixed_at_the_limit_of_threads(run: Any, threads_max: int) -> None:
    """Inline calls need a thread that watches, calls beside one that works; neither kind starves."""
    pools = [Pool(start="inline"), Pool(start="beside"), Pool(), Pool(limit=2, start="beside")]
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    choice = random.Random(seed)

    def work(kind: float) -> float:
        if kind < 0.3:
            time.sleep(kind / 1000)
        elif kind < 0.4:
            sum(range(10_000))
        return kind

    async def worker() -> int:
        n_calls = 0
        for _ in range(100):
            kind = choice.random()
            pool = choice.choice(pools)
            assert await pool.call(work, kind, abandon_on_cancel=choice.random() < 0.2) == kind
            n_calls += 1
            if choice.random() < 0.1:
                await asyncio.to_thread(work, kind)
        return n_calls

    async def main() -> None:
        assert [100] * 20 == await asyncio.gather(*(worker() for _ in range(20)))
        assert threadlets.stats()["threads_peak"] <= threads_max

    run(main(), threads_max=threads_max, executor="threadlets")
    assert [0] * 4 == [counts(pool)["running"] for pool in pools]


# -- how they end ----------------------------------------------------------------------------------


def test_call_that_is_cancelled_before_it_has_begun_is_withdrawn(run: Any) -> None:
    """Its awaiter is cancelled at once, its function is not called, and its place is free."""
    pool = Pool(limit=2)

    async def main() -> None:
        gate = Gate()
        called: list[int] = []
        blocked = asyncio.create_task(pool.call(gate))
        await gate.entered.wait()
        for abandons in (False, True):
            call = pool.call(called.append, 1, abandon_on_cancel=abandons)
            waiting = asyncio.create_task(call)
            await eventually(lambda: counts(pool)["running"] == 2)
            waiting.cancel("why")
            with pytest.raises(asyncio.CancelledError, match="why"):
                await waiting
            assert not blocked.done()
        gate.open()
        await blocked
        assert 0 == await pool.call(int)
        assert [] == called
        assert 0 == counts(pool)["running"]

    run(main(), threads_max=1)


def test_calls_that_wait_for_a_thread_are_cancelled_with_their_pool(run: Any) -> None:
    """Calls that wait for a thread are cancelled at once, the running one when it returns."""
    pool = Pool()

    async def main() -> None:
        gate = Gate()
        called: list[int] = []
        tasks = [asyncio.create_task(pool.call(gate))]
        await gate.entered.wait()
        tasks += [
            asyncio.create_task(pool.call(called.append, 1, abandon_on_cancel=abandons))
            for abandons in (False, True) * 3
        ]
        other = asyncio.create_task(threadlets.call(int))
        await eventually(lambda: counts(pool)["running"] == 7)
        assert 7 == pool.cancel()
        await asyncio.wait(tasks[1:])
        assert not tasks[0].done()
        gate.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 7
        assert 0 == await other
        # Those that were abandoned leave the pool when a thread comes for them.
        await eventually(lambda: counts(pool)["running"] == 0)
        assert [] == called
        assert {"running": 0, "queued": 0, "calls": 7, "cancelled": 7} == counts(pool)

    run(main(), threads_max=1)


def test_loop_is_closed_while_calls_wait_for_a_thread() -> None:
    """No waiting call begins, and none delays the closing."""
    loop = threadlets.new_event_loop(threads_max=1, executor="threadlets")
    called: list[int] = []
    tasks: list[asyncio.Task[Any]] = []
    gates: list[Gate] = []
    pool = Pool()

    async def main() -> asyncio.Future[Any]:
        gates.append(Gate())
        tasks.append(loop.create_task(pool.call(gates[0])))
        await gates[0].entered.wait()
        tasks.append(loop.create_task(pool.call(called.append, 1)))
        future = loop.run_in_executor(None, called.append, 2)
        await eventually(lambda: counts(pool)["running"] == 2)
        for _ in range(3):
            await asyncio.sleep(0)
        return future

    future = loop.run_until_complete(main())
    with pytest.warns(ResourceWarning) as warned:
        loop.close()
    assert any("while functions were blocked" in str(warning.message) for warning in warned)
    gates[0].open()
    assert future.cancelled()
    for task in tasks:
        # A closed loop never resumes them.
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    def are_gone() -> bool:
        return not any(it.name.startswith("threadlets-") for it in threading.enumerate())

    wait_until(are_gone)
    assert [] == called


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()"])
@pytest.mark.parametrize(
    "call",
    [
        "threadlets.call(fail)",
        "threadlets.call(fail, abandon_on_cancel=True)",
        "asyncio.to_thread(fail)",
    ],
)
@pytest.mark.starts("inline", "beside")
def test_function_ends_the_program(script: Any, error: str, call: str) -> None:
    """SystemExit and KeyboardInterrupt pass through the awaiter and end the loop, from any thread."""
    process = script(
        f"""
        def fail():
            raise {error}

        async def main():
            try:
                await {call}
            except BaseException as error:
                print(type(error).__name__)
                raise

        threadlets.run(main(), executor="threadlets")
        """
    )
    status, stdout, _ = outcome(process)
    expected = 3 if "Exit" in error else -signal.SIGINT
    assert (status, stdout.strip()) == (expected, error.partition("(")[0])


@pytest.mark.starts("beside")
def test_child_of_a_fork_in_a_function_beside_the_loop_ends(script: Any) -> None:
    """The child has no loop to return to, and fails; the parent goes on and gets its status."""
    process = script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        def fork(ending):
            pid = os.fork()
            if pid:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if ending == "exits":
                os._exit(7)

        async def main():
            print(await threadlets.call(fork, "exits"))
            print(await threadlets.call(fork, "returns"))
            print(await threadlets.call(int, "5"))

        threadlets.run(main())
        """
    )
    status, stdout, stderr = outcome(process)
    assert (0, ["7", "1", "5"]) == (status, stdout.splitlines())
    assert "os._exit()" in stderr


# -- without threads -------------------------------------------------------------------------------

_WITHOUT_THREADS = """
pool = threadlets.Pool(limit=5)
called = []

async def main():
    refuse(435)  # clone3
    calls = [pool.call(called.append, 1) for _ in range(10)]
    calls += [pool.call(called.append, 1, abandon_on_cancel=True) for _ in range(10)]
    calls += [asyncio.to_thread(called.append, 1) for _ in range(10)]
    async with asyncio.timeout(10):
        results = await asyncio.gather(*calls, return_exceptions=True)
    print({f"{type(it).__name__}: {it}".partition(";")[0] for it in results})
    print(pool.stats()["running"], pool.stats()["queued"], called)

threadlets.run(main(), executor="threadlets")
"""

_WITH_ONE_THREAD = """
async def main():
    gate = threading.Event()
    async with asyncio.timeout(10):
        # The loop has a worker from now on.
        await threadlets.call(time.sleep, 0.001)
        refuse(435)  # clone3
        blocked = asyncio.create_task(threadlets.call(gate.wait))
        others = [asyncio.create_task(threadlets.call(int, number)) for number in range(20)]
        await eventually(lambda: threadlets.stats()["threads_refused"] > 0)
        gate.set()
        print(await blocked, sum(await asyncio.gather(*others)))
    print(threadlets.stats()["threads"], threadlets.stats()["threads_refused"] > 0)

threadlets.run(main())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows this machine's numbers only")
@pytest.mark.starts("inline", "beside")
def test_without_any_thread_each_call_fails_and_no_place_is_lost(script: Any) -> None:
    """Each call raises an error with the cause, and the loop goes on."""
    status, stdout, stderr = outcome(script(REFUSE + _WITHOUT_THREADS))
    assert (0, "") == (status, stderr)
    [errors, left] = stdout.splitlines()
    expected = '{"RuntimeError: can\'t start new thread: a threadlet needs one that could take over from it"}'
    assert expected == errors
    assert "0 0 []" == left


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows this machine's numbers only")
@pytest.mark.starts("inline", "beside")
def test_calls_wait_for_the_only_thread_when_others_are_refused(script: Any) -> None:
    """One thread runs all calls, one after the other."""
    status, stdout, stderr = outcome(script(REFUSE + _WITH_ONE_THREAD))
    assert (0, ["True 190", "1 True"], "") == (status, stdout.splitlines(), stderr)


def test_functions_begin_on_other_threads_though_another_selector_waits() -> None:
    """The loop summons a worker when it begins to wait, whichever selector does the waiting."""

    def wait_alone(timeout: float | None) -> list[Any]:
        time.sleep(0.001 if timeout is None else min(timeout, 0.001))
        return []

    async def main() -> list[int]:
        loop: Any = asyncio.get_running_loop()
        with mock.patch.object(loop._selector, "select", wait_alone):
            # The first call starts a worker, the second one summons an idle worker.
            return [await threadlets.Pool(start="beside").call(int, number) for number in "12"]

    async def within_deadline() -> list[int]:
        return await asyncio.wait_for(main(), 10)

    assert [1, 2] == threadlets.run(within_deadline())
