"""Which monitor notices a block, and what happens where the kernel refuses the idle monitor."""

from __future__ import annotations

import asyncio
import platform
import time
from typing import Any

import pytest
import threadlets
from waiting import eventually

from .harness import REFUSE, Gate, block_once, outcome

pytestmark = pytest.mark.starts("inline", "beside")

_BODY = """
async def main():
    gate = threading.Event()
    loop = asyncio.get_running_loop()
    blocked = asyncio.create_task(threadlets.call(gate.wait))
    await asyncio.sleep(0)
    loop.call_later(0.01, gate.set)
    assert await blocked
    barrier = threading.Barrier(20)
    await asyncio.gather(*(threadlets.call(barrier.wait, 20) for _ in range(20)))
    print(threadlets.stats()["monitor"])

threadlets.run(main())
"""


@pytest.mark.starts("inline")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows this machine's numbers only")
@pytest.mark.parametrize(
    ("call", "number"), [("sched_setscheduler", 144), ("sched_setaffinity", 203)]
)
def test_without_an_idle_monitor_the_timer_notices_and_stats_say_so(
    script: Any, call: str, number: int
) -> None:
    """The timer notices a block where a container forbids the idle priority or the CPU affinity."""
    process = script(REFUSE + f"refuse({number})  # {call}\n" + _BODY)
    status, stdout, stderr = outcome(process)
    assert (0, "timer", "") == (status, stdout.strip(), stderr)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows this machine's numbers only")
def test_without_any_thread_a_call_fails_instead_of_waiting_for_ever(script: Any) -> None:
    """No worker could take over, and none will become free."""
    process = script(
        REFUSE
        + """
async def main():
    refuse(435)  # clone3
    for call in (lambda: threadlets.call(int), lambda: asyncio.to_thread(int)):
        try:
            await call()
        except RuntimeError as error:
            print(str(error).split(":")[0])
    print(threadlets.stats()["threads_refused"])

threadlets.run(main(), executor="threadlets")
"""
    )
    status, stdout, stderr = outcome(process)
    assert (0, "") == (status, stderr)
    assert ["can't start new thread"] * 2 + ["2"] == stdout.splitlines()


@pytest.mark.starts("inline")
def test_both_sources_are_there_by_default(script: Any) -> None:
    """The idle monitor and the timer both notice blocks."""
    status, stdout, stderr = outcome(script(_BODY))
    assert (0, "idle monitor and timer", "") == (status, stdout.strip(), stderr)


def test_no_monitor_runs_while_no_threadlet_does(run: Any) -> None:
    """An idle loop takes no CPU time, although it has called threadlets before."""

    async def main() -> float:
        for _ in range(10):
            await threadlets.call(int)
        await block_once()
        await eventually(lambda: threadlets.stats()["threads"] == 0)
        before = time.process_time()
        await asyncio.sleep(0.5)
        return time.process_time() - before

    assert run(main()) < 0.05


def test_blocked_function_costs_little_while_the_loop_is_idle(run: Any) -> None:
    """No monitor looks at a function that has lost the role."""

    async def main() -> float:
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate))
        await gate.entered.wait()
        await eventually(lambda: threadlets.stats()["threads"] <= 1)
        before = time.process_time()
        await asyncio.sleep(0.5)
        after = time.process_time()
        gate.open()
        await task
        return after - before

    assert run(main()) < 0.05


@pytest.mark.starts("inline")
def test_busy_machine_does_not_starve_the_monitor(run: Any) -> None:
    """The idle monitor gets no CPU time beside busy threads; the timer does."""
    import threading

    stop = threading.Event()

    def busy() -> None:
        import hashlib

        data = b"x" * (1 << 20)
        while not stop.is_set():
            hashlib.sha256(data).digest()

    async def main() -> float:
        threads = [threading.Thread(target=busy) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            gate = Gate()
            started = time.perf_counter()
            task = asyncio.create_task(threadlets.call(gate))
            await gate.entered.wait()
            waited = time.perf_counter() - started
            gate.open()
            await task
        finally:
            stop.set()
            for thread in threads:
                await threadlets.call(thread.join)
        return waited

    assert run(main()) < 1


def test_stack_size_of_the_threading_module_is_honoured(script: Any) -> None:
    """Workers get the stack size of `threading.stack_size()`."""
    process = script(
        """
        import ctypes

        def stack_size():
            # The C library's figure for the calling thread.
            libc = ctypes.CDLL(None)
            attributes, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
            thread = ctypes.c_ulong(threading.get_ident())
            assert libc.pthread_getattr_np(thread, attributes) == 0
            assert libc.pthread_attr_getstacksize(attributes, ctypes.byref(size)) == 0
            return size.value

        gate = threading.Event()

        def called():
            gate.wait()
            return stack_size()

        async def main():
            tasks = [asyncio.create_task(threadlets.call(called)) for _ in range(3)]
            await eventually(lambda: threadlets.stats()["blocked"] == 3)
            # Of the thread that has the role meanwhile, and of those that run the functions.
            of_role = stack_size()
            gate.set()
            print(320 << 10 in [of_role, *await asyncio.gather(*tasks)])

        threading.stack_size(320 << 10)
        threadlets.run(main())
        """
    )
    status, stdout, stderr = outcome(process)
    assert (0, "True", "") == (status, stdout.strip(), stderr)
