"""Any thread may hand work to the loop, which wakes for it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable

import pytest
from waiting import eventually

from .harness import DEADLINE_S, LoopFactory, Run, threadlets_only


def test_threadsafe_call_wakes_a_loop_that_waits(run: Run) -> None:
    """A loop with nothing to do runs another thread's callback at once."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(50):
            answered: asyncio.Future[int] = loop.create_future()
            thread = threading.Thread(
                target=loop.call_soon_threadsafe, args=(answered.set_result, 1)
            )
            thread.start()
            assert 1 == await answered
            thread.join()

    run(main())


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="no system call confines threads to a CPU"
)
def test_loop_can_run_before_the_thread_that_wakes_it_goes_on(run: Run) -> None:
    """A thread that wakes the loop releases the GIL meanwhile, so that the loop can run first."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[bool] = loop.create_future()

        def wake() -> bool:
            answered = threading.Event()
            # The kernel need not, and on a busy machine often does not.
            for _ in range(20_000):
                answered.clear()
                loop.call_soon_threadsafe(answered.set)
                if answered.is_set():
                    return True
                answered.wait(DEADLINE_S)
            return False

        def report() -> None:
            is_first = wake()
            loop.call_soon_threadsafe(finished.set_result, is_first)

        thread = threading.Thread(target=report)
        thread.start()
        assert await finished
        thread.join()

    cpus, interval_s = os.sched_getaffinity(0), sys.getswitchinterval()
    # On one CPU the kernel continues with the thread that is woken. With this switch interval
    # nothing but the wake-up itself takes the GIL from the thread that wakes.
    os.sched_setaffinity(0, {min(cpus)})
    sys.setswitchinterval(DEADLINE_S)
    try:
        run(main())
    finally:
        sys.setswitchinterval(interval_s)
        os.sched_setaffinity(0, cpus)


def test_calls_of_many_threads_all_arrive_in_their_orders(run: Run) -> None:
    """Calls from many threads all arrive, and those of each thread in order."""
    n_threads, n_calls = 8, 2000

    async def main() -> None:
        loop = asyncio.get_running_loop()
        arrived: dict[int, list[int]] = {n: [] for n in range(n_threads)}
        all_done = asyncio.Event()

        def arrive(thread_idx: int, call_idx: int) -> None:
            arrived[thread_idx].append(call_idx)
            if sum(map(len, arrived.values())) == n_threads * n_calls:
                all_done.set()

        def call(thread_idx: int) -> None:
            for call_idx in range(n_calls):
                loop.call_soon_threadsafe(arrive, thread_idx, call_idx)

        threads = [threading.Thread(target=call, args=(n,)) for n in range(n_threads)]
        for thread in threads:
            thread.start()
        await all_done.wait()
        for thread in threads:
            thread.join()
        assert all(list(range(n_calls)) == calls for calls in arrived.values())

    run(main())


def test_coroutine_of_another_thread_gives_its_result_back(run: Run) -> None:
    """`run_coroutine_threadsafe` returns results and exceptions to the thread that asked."""

    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def ask() -> int:
            return asyncio.run_coroutine_threadsafe(double(21), loop).result(DEADLINE_S)

        assert 42 == await asyncio.to_thread(ask)

    run(main())


def test_stop_from_another_thread_ends_the_run(loop: asyncio.AbstractEventLoop) -> None:
    """`call_soon_threadsafe(loop.stop)` ends a loop that waits without a deadline."""
    started = threading.Event()

    def stop() -> None:
        started.wait(DEADLINE_S)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=stop)
    thread.start()
    loop.call_soon(started.set)
    loop.run_forever()
    thread.join()


def test_loop_runs_in_any_thread(loop_factory: LoopFactory) -> None:
    """A loop that was made in one thread runs in a second one, and afterwards in a third."""
    loop = loop_factory()
    results: list[int] = []

    async def work() -> int:
        await asyncio.sleep(0.001)
        return threading.get_ident()

    def run_there() -> None:
        results.append(loop.run_until_complete(work()))
        results.append(threading.get_ident())

    for _ in range(2):
        thread = threading.Thread(target=run_there)
        thread.start()
        thread.join()
    loop.close()
    assert results[0] == results[1]
    assert results[2] == results[3]


def test_loops_in_several_threads_do_not_disturb_each_other(loop_factory: LoopFactory) -> None:
    """Two loops in threads of their own call each other back and forth."""
    n_rounds = 500
    loops = [loop_factory() for _ in range(2)]
    counts = [0, 0]

    def hit(side: int) -> None:
        counts[side] += 1
        if counts[side] == n_rounds:
            loops[side].call_soon(loops[side].stop)
        loops[1 - side].call_soon_threadsafe(hit, 1 - side)

    def play(side: int) -> None:
        loops[side].run_forever()

    threads = [threading.Thread(target=play, args=(side,)) for side in range(2)]
    loops[0].call_soon(hit, 0)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    for loop in loops:
        loop.close()
    assert n_rounds <= min(counts)


def test_waiting_loop_leaves_the_interpreter_to_other_threads(run: Run) -> None:
    """While the loop waits for events another thread computes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()

        def compute(report: Callable[[int], object]) -> None:
            loop.call_soon_threadsafe(report, sum(range(100_000)))

        threading.Thread(target=compute, args=(done.set_result,)).start()
        assert sum(range(100_000)) == await done

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="this Python does not wait for callbacks")
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("ask", ["cancel", "cancelled"])
def test_handle_waits_for_a_callback_that_runs_in_another_thread(
    run: Run, ask: str, debug: bool
) -> None:
    """When `cancel()` or `cancelled()` returns, the callback has ended or will not run."""
    n_threads = 3

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(debug)
        running, ending = threading.Event(), threading.Event()
        ended: list[str] = []
        answers: list[bool] = []

        def callback() -> None:
            running.set()
            # Long enough for the other threads to get the GIL: none of them has an answer yet.
            ending.wait(0.05)
            assert not answers
            ended.append("callback")

        def asks() -> None:
            running.wait(DEADLINE_S)
            getattr(handle, ask)()
            answers.append(bool(ended))

        threads = [threading.Thread(target=asks) for _ in range(n_threads)]
        for thread in threads:
            thread.start()
        handle = loop.call_soon_threadsafe(callback)
        await eventually(lambda: len(answers) >= n_threads)
        for thread in threads:
            thread.join()
        assert answers == [True] * n_threads
        assert handle.cancelled() is (ask == "cancel")

    run(main())


def test_callback_may_cancel_its_own_handle(run: Run) -> None:
    """`cancel()` does not wait inside the callback, nor before it runs or after it has run."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        called: list[bool] = []

        def callback() -> None:
            called.append(handle.cancelled())
            handle.cancel()
            called.append(handle.cancelled())

        handle = loop.call_soon_threadsafe(callback)
        cancelled = loop.call_soon_threadsafe(called.append, False)
        cancelled.cancel()
        await asyncio.sleep(0)
        assert [False, True] == called
        assert cancelled.cancelled()
        handle.cancel()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="this Python does not wait for callbacks")
@threadlets_only
def test_signals_are_handled_while_a_callback_is_waited_for(run: Run) -> None:
    """Signals are handled while the main thread waits for a callback in another thread's loop.

    On the stock loop it waits for a lock, and a signal to the other thread does not wake it.
    """
    loops: list[asyncio.AbstractEventLoop] = []
    running, handled = threading.Event(), threading.Event()

    async def other() -> None:
        loops.append(asyncio.get_running_loop())
        running.set()
        await eventually(handled.is_set)

    thread = threading.Thread(target=run, args=(other(),))
    thread.start()
    assert running.wait(DEADLINE_S)
    running.clear()

    def callback() -> None:
        running.set()
        signal.raise_signal(signal.SIGUSR1)
        assert handled.wait(DEADLINE_S)

    before = signal.signal(signal.SIGUSR1, lambda *_: handled.set())
    try:
        handle = loops[0].call_soon_threadsafe(callback)
        assert running.wait(DEADLINE_S)
        handle.cancel()
        assert handled.is_set()
    finally:
        signal.signal(signal.SIGUSR1, before)
        thread.join()
