"""Endings while functions are blocked: stop, the return of `run`, close, fork, and exit."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import threading
import weakref
from typing import Any

import pytest
import threadlets
from waiting import eventually

from .harness import DEADLINE_S, Gate, block_once, outcome

pytestmark = pytest.mark.starts("inline", "beside")


@pytest.mark.starts("inline")
def test_stop_waits_for_home_and_for_no_other_worker(run: Any) -> None:
    """`run_forever` returns on the thread that called it, so it waits for that thread only."""
    loop = threadlets.new_event_loop()
    gates: list[Gate] = []

    async def block() -> str:
        gate = Gate()
        gates.append(gate)
        await threadlets.call(gate)
        return threading.current_thread().name

    async def stop() -> None:
        # Home is blocked in the first function, another worker in the second.
        first = loop.create_task(block())
        await eventually(lambda: len(gates) == 1)
        await gates[0].entered.wait()
        second = loop.create_task(block())
        await eventually(lambda: len(gates) == 2)
        await gates[1].entered.wait()
        loop.stop()
        gates[0].open()
        tasks.extend([first, second])

    tasks: list[asyncio.Task[str]] = []
    task = loop.create_task(stop())
    loop.run_forever()
    assert threading.current_thread() is threading.main_thread()
    assert task.done()
    assert not tasks[1].done()
    gates[1].open()
    results = loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks), DEADLINE_S))
    assert "MainThread" == results[0]
    assert results[1].startswith("threadlets-")
    loop.close()


def test_run_waits_for_functions_of_its_tasks(run: Any) -> None:
    """A task that is cancelled at the end of `run` ends when its function has returned."""
    log: list[str] = []

    async def task(gate: Gate) -> None:
        try:
            await threadlets.call(gate)
        finally:
            log.append("returned")

    async def main() -> None:
        gate = Gate()
        kept.append(asyncio.create_task(task(gate)))
        await gate.entered.wait()
        asyncio.get_running_loop().call_later(0.02, gate.open)

    kept: list[Any] = []
    run(main())
    assert ["returned"] == log


def test_closing_names_the_functions_that_are_blocked() -> None:
    """Blocked functions cannot be stopped; a warning names them and their threads."""
    loop = threadlets.new_event_loop()
    gate: Gate | None = None

    async def main() -> None:
        nonlocal gate
        # This call blocks home, so that the other one blocks another worker.
        first = Gate()
        home = asyncio.create_task(threadlets.call(first))
        await first.entered.wait()
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate, abandon_on_cancel=True))
        await gate.entered.wait()
        task.cancel()
        first.open()
        await home

    loop.run_until_complete(main())
    assert 1 == loop._worker_stats()["blocked"]
    with pytest.warns(ResourceWarning, match=r"Gate.*in thread 'threadlets-\d+'"):
        loop.close()
    assert gate is not None
    gate.open()


def test_closed_loop_leaves_no_thread_and_can_be_collected(run: Any) -> None:
    """Closing waits for idle threads, and nothing keeps the loop alive."""
    loop = threadlets.new_event_loop()

    async def main() -> None:
        await block_once()

    loop.run_until_complete(main())
    before = loop._worker_stats()["threads"]
    loop.close()
    assert before >= 1
    assert 0 == loop._worker_stats()["threads"]
    reference = weakref.ref(loop)
    del loop
    gc.collect()
    assert reference() is None


def test_interpreter_exits_while_a_function_is_blocked_that_never_returns(script: Any) -> None:
    """The exit does not wait for a function that was abandoned, and is clean."""
    process = script(
        """
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)

        async def main():
            gate = threading.Event()
            home = asyncio.create_task(threadlets.call(gate.wait))
            await eventually(lambda: threadlets.stats()["blocked"] == 1)
            task = asyncio.create_task(threadlets.call(time.sleep, 1000, abandon_on_cancel=True))
            await eventually(lambda: threadlets.stats()["blocked"] == 2)
            gate.set()
            await home
            task.cancel()
            print(threadlets.stats()["blocked"])

        threadlets.run(main())
        print("done")
        """
    )
    status, stdout, stderr = outcome(process)
    assert (0, ["1", "done"], "") == (status, stdout.split(), stderr)


def test_functions_that_return_while_the_interpreter_ends_do_no_harm(script: Any) -> None:
    """Many threads want the GIL when the interpreter stops giving it to any."""
    process = script(
        """
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)

        end = float("inf")

        def short():
            while time.monotonic() < end:
                time.sleep(0.0001)

        async def main():
            global end
            gate = threading.Event()
            home = asyncio.create_task(threadlets.call(gate.wait))
            await eventually(lambda: threadlets.stats()["blocked"] == 1)
            tasks = [asyncio.create_task(threadlets.call(short, abandon_on_cancel=True)) for _ in range(20)]
            await eventually(lambda: threadlets.stats()["blocked"] == 21)
            end = time.monotonic() + 1
            gate.set()
            await home
            for task in tasks:
                task.cancel()

        threadlets.run(main())
        """
    )
    status, _, stderr = outcome(process)
    assert (0, "") == (status, stderr)


def test_loop_in_a_daemon_thread_does_not_keep_the_interpreter(script: Any) -> None:
    """The exit does not wait for the loop, with functions that are blocked or busy."""
    process = script(
        """
        ready = threading.Event()

        async def main():
            asyncio.create_task(threadlets.call(time.sleep, 1000))
            await eventually(lambda: threadlets.stats()["blocked"] == 1)

            async def busy():
                while True:
                    await threadlets.call(time.sleep, 0.0001)

            tasks = [asyncio.create_task(busy()) for _ in range(5)]
            stats = threadlets.stats
            await eventually(lambda: stats()["calls_inline"] + stats()["calls_beside"] > 50)
            ready.set()
            await asyncio.sleep(1000)

        threading.Thread(target=threadlets.run, args=(main(),), daemon=True).start()
        ready.wait()
        print("done")
        """
    )
    status, stdout, stderr = outcome(process)
    assert (0, "done", "") == (status, stdout.strip(), stderr)


@pytest.mark.starts("inline")
def test_child_of_a_fork_within_a_threadlet_is_told_apart(script: Any) -> None:
    """The child can return from the function and end; the loop stays its parent's, as in asyncio."""
    process = script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        moved = threading.Event()

        def fork():
            moved.wait()
            moved.clear()
            pid = os.fork()
            if pid:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            return None

        async def child(ending):
            # It is set once the role has moved.
            asyncio.get_running_loop().call_soon(moved.set)
            status = await threadlets.call(fork)
            if status is None:
                if ending == "exits":
                    os._exit(7)
                if ending == "awaits":
                    try:
                        await asyncio.sleep(0)
                        await asyncio.sleep(0.01)
                    except RuntimeError as error:
                        os._exit(8 if "no running event loop" in str(error) else 9)
            return status

        async def main():
            await threadlets.call(time.sleep, 0.01)
            print(await child("exits"), await child("awaits"))
            # Home is blocked meanwhile, so another worker forks.
            gate = threading.Event()
            home = asyncio.create_task(threadlets.call(gate.wait))
            await eventually(lambda: threading.current_thread() is not threading.main_thread())
            status = await child("goes on")
            if status is not None:
                print(status)
            gate.set()
            await home
            print("parent goes on")

        threadlets.run(main())
        """
    )
    status, stdout, stderr = outcome(process)
    assert (0, ["7 8", "1", "parent goes on"]) == (status, stdout.splitlines())
    assert "os._exit()" in stderr


def test_subprocess_runs_in_a_threadlet(run: Any) -> None:
    """`subprocess.run` blocks, and the loop goes on meanwhile."""

    async def main() -> tuple[int, int]:
        n_ticks = 0

        async def tick() -> None:
            nonlocal n_ticks
            while True:
                n_ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        result = await threadlets.call(
            subprocess.run, ["sleep", "0.1"], check=True, stdin=subprocess.DEVNULL
        )
        ticking.cancel()
        return result.returncode, n_ticks

    status, n_ticks = run(main())
    assert 0 == status
    assert n_ticks > 10


def test_os_fork_outside_of_threadlets_leaves_the_parent_alone(script: Any) -> None:
    """A child that only exits does not disturb the loop."""
    process = script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)

        async def main():
            await threadlets.call(time.sleep, 0.01)
            pid = os.fork()
            if pid == 0:
                os._exit(3)
            print(os.waitstatus_to_exitcode((await threadlets.call(os.waitpid, pid, 0))[1]))

        threadlets.run(main())
        """
    )
    status, stdout, stderr = outcome(process)
    assert (0, "3", "") == (status, stdout.strip(), stderr)


def test_loops_in_several_threads_have_workers_of_their_own() -> None:
    """The workers of each loop take over from that loop only."""

    async def main() -> int:
        gates = [Gate() for _ in range(5)]
        tasks = [
            asyncio.create_task(threadlets.call(gate, number)) for number, gate in enumerate(gates)
        ]
        for gate in gates:
            await gate.entered.wait()
            gate.open()
        return sum(await asyncio.gather(*tasks))

    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(threadlets.run(main()))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert [10] * 4 == results


def test_threadlet_may_run_a_loop_of_its_own(run: Any) -> None:
    """Functions of the executor see no running loop, as in a thread pool, and may run one."""

    async def inner() -> int:
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate, 1))
        await gate.entered.wait()
        gate.open()
        return await task

    async def main() -> list[int]:
        return await asyncio.gather(
            asyncio.to_thread(lambda: threadlets.run(inner())),
            asyncio.to_thread(lambda: asyncio.run(asyncio.sleep(0, 2))),
        )

    assert [1, 2] == run(main(), executor="threadlets")


def test_descriptors_and_threads_are_given_back(run: Any) -> None:
    """A hundred loops with blocked functions leave nothing behind."""

    async def main() -> None:
        await block_once()

    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    run(main())
    gc.collect()
    before = count()
    for _ in range(100):
        run(main())
    gc.collect()
    for _ in range(1000):
        if count()[1] <= before[1]:
            break
        # The kernel lists a thread for a moment after it has reported its exit.
        threading.Event().wait(0.005)
    assert count() <= before


def test_child_of_a_fork_says_what_it_lacks(script: Any) -> None:
    """The child's loop needs descriptors; without any it raises that error, not that it is closed."""
    process = script(
        """
        import resource, warnings
        warnings.simplefilter("ignore")
        loop = threadlets.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0))
        if not (pid := os.fork()):
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
            try:
                loop.run_until_complete(asyncio.sleep(0))
            except OSError as error:
                print(error.strerror)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            loop.run_until_complete(asyncio.sleep(0))
            print("goes on")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        """
    )
    assert (0, "Too many open files\ngoes on\n", "") == outcome(process)
