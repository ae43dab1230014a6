"""Debug mode reports slow callbacks, calls from wrong threads, and callbacks that are none."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from typing import Any

import pytest

from .harness import Recorder, Run, connected, note_failures, threadlets_only, ticks


def test_callbacks_run_in_debug_mode_too(run: Run) -> None:
    """Callbacks, timers and readers work in debug mode as they do without it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        assert loop.get_debug()
        order: list[str] = []
        loop.call_soon(order.append, "soon")
        loop.call_later(0, order.append, "timer")
        loop.call_soon(order.append, "cancelled").cancel()
        loop.call_later(0, order.append, "cancelled").cancel()
        await ticks(3)
        assert ["soon", "timer"] == order
        async with connected(Recorder) as connection:
            connection.peer.send(b"data")
            assert b"data" == await connection.protocol.receive(4)

    run(main())


def test_foreign_thread_is_refused(run: Run) -> None:
    """In debug mode another thread may not call `call_soon`, `call_later` or `call_at`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        for call in (
            lambda: loop.call_soon(print),
            lambda: loop.call_later(1, print),
            lambda: loop.call_at(1, print),
        ):
            with pytest.raises(RuntimeError, match="Non-thread-safe"):
                await asyncio.to_thread(call)

    run(main())


@threadlets_only
def test_refusal_of_a_foreign_thread_names_both_threads_and_the_remedy(run: Run) -> None:
    """The message names the calling thread, the loop's thread, and the call to use instead."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        errors: list[str] = []

        def call() -> None:
            try:
                loop.call_soon(print)
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=call, name="intruder")
        thread.start()
        await asyncio.to_thread(thread.join)
        for part in ("'intruder'", repr(threading.current_thread().name), "call_soon_threadsafe"):
            assert part in errors[0]

    run(main())


@threadlets_only
def test_foreign_thread_may_not_watch_or_write(run: Run) -> None:
    """In debug mode another thread may neither watch a descriptor nor write to a transport."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        async with connected(Recorder) as connection:
            fd = connection.peer.fileno()
            for call in (
                lambda: loop.add_reader(fd, print),
                lambda: loop.remove_writer(fd),
                lambda: connection.transport.write(b"data"),
                lambda: connection.transport.writelines([b"data"]),
            ):
                with pytest.raises(RuntimeError, match="Non-thread-safe"):
                    await asyncio.to_thread(call)

    run(main())


def test_foreign_thread_may_use_the_threadsafe_call(run: Run) -> None:
    """In debug mode another thread may still call `call_soon_threadsafe`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        called = asyncio.Event()
        await asyncio.to_thread(loop.call_soon_threadsafe, called.set)
        await called.wait()

    run(main())


def test_something_that_is_no_callback_is_refused(run: Run) -> None:
    """In debug mode neither a coroutine nor a number can be scheduled."""

    async def coroutine() -> None: ...

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_debug(True)
        for schedule in (loop.call_soon, loop.call_soon_threadsafe):
            with pytest.raises(TypeError, match="coroutines cannot be used"):
                schedule(coroutine)
            with pytest.raises(TypeError, match="callable object was expected"):
                schedule(1)

    run(main())


def test_slow_callback_is_reported(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A callback that takes longer than `slow_callback_duration` is logged with its name."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0  # Everything is slow.
        with caplog.at_level(logging.WARNING, logger="asyncio"):
            loop.call_soon(dawdle)
            loop.call_later(0, dawdle)
            await ticks(3)

    run(main())
    slow = [record.getMessage() for record in caplog.records if "dawdle" in record.getMessage()]
    assert 2 == len(slow)
    assert all(line.startswith("Executing") and line.endswith("seconds") for line in slow)


def test_slow_protocol_is_reported(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The methods of a transport's protocol are timed as well."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = 0
        async with connected(Recorder) as connection:
            await ticks(2)
            with caplog.at_level(logging.WARNING, logger="asyncio"):
                caplog.clear()
                connection.peer.send(b"data")
                await connection.protocol.receive(4)
                await ticks(1)

    run(main())
    assert any("read" in record.getMessage().lower() for record in caplog.records)


def test_failing_callback_shows_where_it_was_made(run: Run) -> None:
    """In debug mode a failure is reported with the place that scheduled the callback."""

    def fail() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        asyncio.get_running_loop().set_debug(True)
        failures = note_failures()
        asyncio.get_running_loop().call_soon(fail)
        await ticks(2)
        (failure,) = failures
        assert isinstance(failure["exception"], ZeroDivisionError)
        assert any(__file__ == frame.filename for frame in failure["source_traceback"])

    run(main())


def test_debug_mode_can_be_switched_while_running(run: Run) -> None:
    """Callbacks that were scheduled before a switch run after it, in order."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        order: list[int] = []
        for n in range(6):
            loop.set_debug(n % 2 == 0)
            loop.call_soon(order.append, n)
        await ticks(2)
        assert list(range(6)) == order

    run(main())


def test_failed_task_is_freed_at_once(run: Run) -> None:
    """The traceback of a task that failed does not keep the task alive, in debug mode either."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        failures = note_failures()

        async def fail_later() -> None:
            raise ZeroDivisionError

        gc.disable()
        try:
            asyncio.Task(fail_later())
            await ticks(2)
        finally:
            gc.enable()
        assert ["Task exception was never retrieved"] == [it["message"] for it in failures]

    run(main())


@threadlets_only
def test_cancelled_timers_are_forgotten_at_once(run: Run) -> None:
    """Cancelled timers free everything to which they referred, and the count of timers is exact."""

    class Referent:
        pass

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_debug(True)
        _, n_before, _ = loop._counts()
        referents: weakref.WeakSet[Referent] = weakref.WeakSet()
        handles: weakref.WeakSet[asyncio.TimerHandle] = weakref.WeakSet()
        for start in (loop.call_later, loop.call_at):
            for _ in range(100):
                referent = Referent()
                referents.add(referent)
                handle = start(loop.time() + 1000, id, referent)
                handles.add(handle)
                handle.cancel()
                handle.cancel()
        async with asyncio.timeout(1000):
            pass
        del handle, referent
        assert loop._counts()[1] == n_before
        assert not referents
        assert not handles
        fired: list[int] = []
        kept = loop.call_later(0.001, fired.append, 1)
        await asyncio.sleep(0.002)
        kept.cancel()
        assert [1] == fired

    run(main())


def dawdle() -> None:
    """Stand for a slow callback."""
