"""Debug mode: both sides of a deadlock are named, and objects that belong to a blocked thread."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
import warnings
import weakref
from typing import Any

import pytest
import threadlets
from waiting import eventually

from .harness import Gate, block_once, outcome

pytestmark = pytest.mark.starts("inline", "beside")


@pytest.mark.starts("inline")
def test_lock_held_across_a_call_is_reported_with_both_sides(script: Any) -> None:
    """One task holds a threading lock across an await; another blocks the dispatcher on that lock."""
    process = script(
        """
        lock = threading.Lock()

        async def holder():
            with lock:
                await threadlets.call(time.sleep, 0.05)

        async def stopper():
            await eventually(lambda: threadlets.stats()["blocked"] == 1)
            # On the dispatcher, outside of any threadlet.
            print("acquired", lock.acquire(timeout=3))

        async def main():
            await asyncio.gather(holder(), stopper())

        threadlets.run(main(), debug=True)
        """
    )
    status, stdout, stderr = outcome(process)
    assert (0, "acquired False") == (status, stdout.strip())
    report = stderr[stderr.index("The dispatcher does not finish its request") :]
    assert "in stopper" in report[: report.index("Waiting to return")]
    assert "in holder" in report[report.index("Waiting to return") :]
    assert "threadlets.call(lock.acquire)" in report
    assert 1 == report.count("The dispatcher does not finish")


@pytest.mark.starts("inline")
def test_sqlite_connection_that_stays_behind_is_named(run: Any) -> None:
    """A connection of a blocked thread is of no use to the loop's other requests."""

    async def main() -> None:
        connection = sqlite3.connect(":memory:")
        shared = sqlite3.connect(":memory:", check_same_thread=False)
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate))
        with pytest.warns(RuntimeWarning, match="test_debug.py:.*check_same_thread=False") as seen:
            await gate.entered.wait()
        assert 1 == len(seen)
        with pytest.raises(sqlite3.ProgrammingError):
            connection.execute("select 1")
        assert [(1,)] == shared.execute("select 1").fetchall()
        gate.open()
        await task
        home = threading.main_thread().ident
        await eventually(lambda: threading.get_ident() == home)
        assert [(1,)] == connection.execute("select 1").fetchall()
        connection.close()
        shared.close()

    run(main(), debug=True)


local = threading.local()


@pytest.mark.starts("inline")
def test_thread_local_that_stays_behind_is_named(run: Any) -> None:
    """The warning has the object's name and both threads' names."""

    async def setter() -> None:
        local.value = object()

    async def main() -> None:
        await asyncio.create_task(setter())
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate))
        with pytest.warns(RuntimeWarning, match="ContextVar") as seen:
            await gate.entered.wait()
        messages = [str(warning.message) for warning in seen]
        assert 1 == len(messages)
        assert "test_debug.local" in messages[0]
        assert "'MainThread', where a threadlet is blocked" in messages[0]
        assert "now run on thread 'threadlets-1'" in messages[0]
        assert not hasattr(local, "value")
        gate.open()
        await task
        # The same object is not reported again.
        again = Gate()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            task = asyncio.create_task(threadlets.call(again))
            await again.entered.wait()
            again.open()
            await task
        assert [] == found

    run(main(), debug=True)


def test_nothing_is_said_where_nothing_stays_behind(run: Any) -> None:
    """Without objects of the blocked thread nothing is reported, in debug mode or outside of it."""

    async def main() -> None:
        await block_once()

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run(main(), debug=True)
        run(main())
    assert [] == [str(it.message) for it in found]


def test_calls_from_a_blocked_functions_thread_are_refused(run: Any) -> None:
    """A blocked function's thread has no role; only home's signal handlers may call there."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        home, gate = Gate(), Gate()

        def function() -> None:
            gate()
            loop.call_soon(print)

        first = asyncio.create_task(threadlets.call(home))
        await home.entered.wait()
        task = asyncio.create_task(threadlets.call(function))
        await gate.entered.wait()
        gate.open()
        with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
            await task
        home.open()
        await first

    run(main(), debug=True)


@pytest.mark.parametrize("hook", ["_worker_joined", "_worker_left", "_role_moved"])
def test_failing_hook_does_not_stop_the_loop(
    run: Any, start: str, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure in our own bookkeeping is reported, and the loop goes on."""
    reports: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.append(report.exc_value))

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()

        def fail(*_args: object) -> None:
            raise ValueError("hook")

        setattr(loop, hook, fail)
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate, 1))
        await gate.entered.wait()
        gate.open()
        assert 1 == await task
        await eventually(lambda: threadlets.stats()["threads"] == 0)

    run(main(), debug=True)
    # The role does not move for a function beside the loop.
    is_called = (start, hook) != ("beside", "_role_moved")
    assert {str(report) for report in reports} == ({"hook"} if is_called else set())


def test_blocked_function_is_no_slow_callback(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a task's call nor a queued one has delayed other requests: the loop went on."""

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 1
        for abandons in (False, True):
            gate = Gate()
            task = asyncio.create_task(threadlets.call(gate, abandon_on_cancel=abandons))
            await gate.entered.wait()
            await asyncio.sleep(1.5)
            gate.open()
            await task

    run(main(), debug=True)
    assert "Executing" not in caplog.text


def test_closed_loop_can_be_collected_after_debugging(run: Any) -> None:
    """What debug mode notes of a loop's threads does not keep the loop alive."""

    async def main() -> weakref.ref[Any]:
        await block_once()
        return weakref.ref(asyncio.get_running_loop())

    loop = run(main(), debug=True)
    gc.collect()
    assert loop() is None
