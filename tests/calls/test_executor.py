"""`ThreadletExecutor`, and the loop's own executor of threadlets."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
from typing import Any

import pytest
import threadlets
from threadlets import ThreadletExecutor

from .harness import DEADLINE_S, n_takeovers, outcome

pytestmark = pytest.mark.starts("inline", "beside")


def fail(error: Exception) -> None:
    raise error


@pytest.mark.starts("inline")
def test_submitted_functions_run_on_one_thread_until_they_block(
    without_forced_switches: None,
) -> None:
    """There are as many threads as blocked functions, and no more."""
    with ThreadletExecutor() as executor:
        home, *others = set(executor.map(lambda _: threading.get_ident(), range(100)))
        assert [] == others
        assert threading.get_ident() != home
        stats = executor.stats()
        # The thread is the one that could take over.
        assert (0, 1) == (n_takeovers(stats), stats["threads_peak"])
        barrier = threading.Barrier(20)
        futures = [executor.submit(barrier.wait, DEADLINE_S) for _ in range(20)]
        assert list(range(20)) == sorted(future.result() for future in futures)
        stats = executor.stats()
        # The last function opens the barrier, and does not block.
        assert (19, 20) == (n_takeovers(stats), stats["threads_peak"])


def test_arguments_results_and_exceptions_pass() -> None:
    """Arguments, results and exceptions pass as with any executor."""
    with ThreadletExecutor() as executor:
        assert {"a": 1, "b": 2} == executor.submit(dict, [("a", 1)], b=2).result()
        with pytest.raises(KeyError, match="lost"):
            executor.submit(fail, KeyError("lost")).result()
        assert [32, 9] == list(executor.map(pow, [2, 3], [5, 2]))
        with pytest.raises(RuntimeError, match="StopIteration"):
            executor.submit(next, iter(())).result()
        # Functions may submit to their own executor and wait for it.
        assert 7 == executor.submit(lambda: executor.submit(int, "7").result()).result()


def test_max_workers_limits_what_runs_at_once() -> None:
    """`max_workers` functions run at once, and the others wait in order."""
    gate = threading.Event()
    running = threading.Semaphore(0)
    order: list[int] = []

    def work(number: int) -> None:
        order.append(number)
        running.release()
        assert gate.wait(DEADLINE_S)

    with ThreadletExecutor(max_workers=2) as executor:
        futures = [executor.submit(work, number) for number in range(5)]
        for _ in range(2):
            assert running.acquire(timeout=DEADLINE_S)
        assert [0, 1] == order
        assert not any(future.done() for future in futures)
        gate.set()
        concurrent.futures.wait(futures)
    assert [0, 1, 2, 3, 4] == order


def test_shutdown_waits_and_refuses_what_comes_later() -> None:
    """The executor's threads have ended when `shutdown` returns."""
    executor = ThreadletExecutor(thread_name_prefix="ended")
    future = executor.submit(threading.Event().wait, 0.05)
    executor.shutdown()
    assert future.done()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)
    assert not any(thread.name == "ended" for thread in threading.enumerate())
    executor.shutdown()


def test_shutdown_can_cancel_what_has_not_started() -> None:
    """Running functions go on, and `wait=False` does not wait for them."""
    gate, started = threading.Event(), threading.Event()
    executor = ThreadletExecutor(max_workers=1)
    first = executor.submit(lambda: (started.set(), gate.wait(DEADLINE_S)))
    others = [executor.submit(int) for _ in range(5)]
    assert started.wait(DEADLINE_S)
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in others)
    assert not first.done()
    gate.set()
    assert first.result(DEADLINE_S)[1] is True
    executor.shutdown()


def test_cancelled_future_does_not_start() -> None:
    """A future can be cancelled while it waits, and not while it runs."""
    gate, started = threading.Event(), threading.Event()
    called: list[int] = []
    with ThreadletExecutor(max_workers=1) as executor:
        first = executor.submit(lambda: (started.set(), gate.wait(DEADLINE_S)))
        second = executor.submit(called.append, 1)
        third = executor.submit(int, "3")
        assert started.wait(DEADLINE_S)
        assert not first.cancel()
        assert second.cancel()
        gate.set()
        assert 3 == third.result(DEADLINE_S)
    assert [] == called


def test_forgotten_executor_ends_its_threads() -> None:
    """An executor to which nothing refers ends its threads once its futures are done."""
    executor = ThreadletExecutor(thread_name_prefix="forgotten")
    assert 0 == executor.submit(int).result()
    home = executor._threads._home
    assert home is not None
    del executor
    gc.collect()
    home.join(DEADLINE_S)
    assert not home.is_alive()


def test_interpreter_waits_for_what_was_submitted(script: Any) -> None:
    """The exit waits for submitted functions, as for those of a `ThreadPoolExecutor`."""
    process = script(
        """
        executor = threadlets.ThreadletExecutor()
        for number in range(3):
            executor.submit(lambda number=number: (time.sleep(0.1), os.write(1, b"%d\\n" % number)))
        print("end of the main thread")
        """
    )
    status, stdout, stderr = outcome(process)
    assert (0, "") == (status, stderr)
    assert "end of the main thread" == stdout.splitlines()[0]
    assert ["0", "1", "2"] == sorted(stdout.splitlines()[1:])


def test_loops_take_it_as_their_default_executor(run: Any) -> None:
    """asyncio's loop insists on a thread pool as its default executor; ours does not."""

    async def main() -> tuple[int, bool]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadletExecutor())  # type: ignore[arg-type]
        thread = await asyncio.to_thread(threading.get_ident)
        with pytest.raises(TypeError):
            loop.set_default_executor("executor")  # type: ignore[arg-type]
        return await asyncio.to_thread(int, "5"), thread != threading.get_ident()

    assert (5, True) == run(main())


class TestLoopOfThreadlets:
    """Loops made by `new_event_loop(executor="threadlets")`."""

    @pytest.mark.starts("inline")
    def test_to_thread_calls_on_the_loops_thread(
        self, run: Any, without_forced_switches: None
    ) -> None:
        """A function that does not block is called without a hop to another thread."""

        async def main() -> None:
            assert await asyncio.to_thread(threading.get_ident) == threading.get_ident()

        run(main(), executor="threadlets")

    def test_no_loop_runs_in_the_functions_thread(self, run: Any) -> None:
        """As in a thread pool, a function sees no running loop; the loop runs on afterwards."""

        async def main() -> None:
            with pytest.raises(RuntimeError, match="no running event loop"):
                await asyncio.to_thread(asyncio.get_running_loop)
            assert asyncio.get_running_loop() is not None

        run(main(), executor="threadlets")

    def test_blocked_functions_run_at_once(self, run: Any) -> None:
        """More functions can be blocked at once than a thread pool has threads."""

        async def main() -> list[int]:
            barrier = threading.Barrier(100)
            calls = (asyncio.to_thread(barrier.wait, DEADLINE_S) for _ in range(100))
            return sorted(await asyncio.gather(*calls))

        assert list(range(100)) == run(main(), executor="threadlets")

    def test_cancelled_call_is_abandoned(self, run: Any) -> None:
        """As with a thread pool, the awaiting task goes on at once, and so does the function."""

        async def main() -> None:
            gate, started, ended = threading.Event(), asyncio.Event(), threading.Event()
            loop = asyncio.get_running_loop()

            def function() -> None:
                loop.call_soon_threadsafe(started.set)
                gate.wait(DEADLINE_S)
                ended.set()

            task = asyncio.create_task(asyncio.to_thread(function))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.set()
            assert await asyncio.to_thread(ended.wait, DEADLINE_S)

        run(main(), executor="threadlets")

    def test_run_in_executor_still_takes_others(self, run: Any) -> None:
        """A thread pool that is passed to `run_in_executor` is used."""

        async def main() -> bool:
            loop = asyncio.get_running_loop()
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                thread = await loop.run_in_executor(pool, threading.get_ident)
            return thread != threading.get_ident()

        assert run(main(), executor="threadlets")

    def test_shutdown_waits_for_functions(self, run: Any) -> None:
        """The loop's executor waits for its functions, and takes no more afterwards."""
        log: list[str] = []

        def function() -> None:
            threading.Event().wait(0.05)
            log.append("returned")

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, function)
            await loop.shutdown_default_executor()
            assert ["returned"] == log
            with pytest.raises(RuntimeError, match="shutdown"):
                await loop.run_in_executor(None, int)

        run(main(), executor="threadlets")

    def test_wrong_arguments_are_refused(self) -> None:
        """The error names the choices, or the argument whose value is out of range."""
        with pytest.raises(ValueError, match="'threadlets'"):
            threadlets.new_event_loop(executor="processes")  # type: ignore[arg-type]
        for arguments in ({"threads_max": 0}, {"preempt_ms": 0}, {"preempt_ms": -1}):
            with pytest.raises(ValueError, match=next(iter(arguments))):
                threadlets.new_event_loop(**arguments)  # type: ignore[arg-type]
