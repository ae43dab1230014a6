"""Debug mode names code that reads a `threading.local` after a suspension, and where it was set."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import threadlets
from waiting import eventually

from .harness import Gate

pytestmark = pytest.mark.starts("inline", "beside")

local = threading.local()


class Registry(threading.local):
    """A `threading.local` that is made before any loop of the process runs in debug mode."""

    def __init__(self) -> None:
        self.cache: dict[str, int] = {}


registry = Registry()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Leave nothing set on this thread."""
    yield
    vars(local).clear()


@contextmanager
def silence() -> Iterator[None]:
    """Fail if there is a warning."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    assert [] == [str(it.message) for it in found]


@contextmanager
def warnings_as_errors() -> Iterator[None]:
    """Make every warning an error, which the loop's exception handler gets."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_reader_is_named_that_has_suspended_since_it_set_the_value(run: Any) -> None:
    """One warning has the value's name, both places, and the remedy."""

    async def remembers() -> None:
        local.user = "me"
        await asyncio.sleep(0)
        for _ in range(2):
            assert "me" == local.user

    with pytest.warns(RuntimeWarning, match="remembers") as seen:
        run(remembers(), debug=True)
    (warning,) = seen
    message = str(warning.message)
    assert "test_thread_locals.local.user, which was set by" in message
    assert message.count(".remembers (") == message.count("test_thread_locals.py:") == 2
    assert "before the task suspended; others have run on the thread since" in message
    assert "ContextVar" in message
    assert warning.filename == __file__


def test_setter_is_named_when_another_request_reads(run: Any) -> None:
    """Both run on the same thread only by chance."""

    async def sets() -> None:
        local.user = "me"

    async def reads() -> None:
        assert "me" == local.user

    async def main() -> None:
        await asyncio.create_task(sets())
        await asyncio.create_task(reads())

    with pytest.warns(RuntimeWarning, match=r"reads .*local\.user.* set by .*sets .*by chance"):
        run(main(), debug=True)


@pytest.mark.starts("inline")
@pytest.mark.parametrize("tasks", ["native", "asyncio"])
def test_reader_that_goes_on_on_another_thread_is_named(run: Any, tasks: str) -> None:
    """The value has stayed on the thread whose function is blocked."""

    async def remembers(entered: asyncio.Event) -> None:
        local.user = "me"
        await entered.wait()
        assert not hasattr(local, "user")

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(remembers(gate.entered))
        await asyncio.sleep(0)
        blocked = asyncio.create_task(threadlets.call(gate))
        await gate.entered.wait()
        await task
        gate.open()
        await blocked

    with pytest.warns(RuntimeWarning) as seen:
        run(main(), debug=True, tasks=tasks)
    left, read = (str(it.message) for it in seen)
    assert "were set by requests on thread 'MainThread'" in left
    assert "remembers (" in left
    assert "remembers (" in read
    assert "before the task suspended, on another thread" in read


def test_function_reads_its_own_after_it_was_blocked(run: Any) -> None:
    """A blocked function keeps its thread, and with it the value."""

    async def main() -> None:
        gate = Gate()

        def function() -> str:
            local.user = "me"
            gate()
            found: str = local.user
            del local.user
            return found

        task = asyncio.create_task(threadlets.call(function))
        await gate.entered.wait()
        gate.open()
        assert "me" == await task

    with silence():
        run(main(), debug=True)


def test_what_a_request_sets_and_reads_by_itself_is_its_own_affair(run: Any) -> None:
    """No warning is given for values that are deleted again, set anew, or older than the loop."""
    local.before = 1

    async def careful() -> None:
        local.user = "me"
        assert ("me", 1) == (local.user, local.before)
        del local.user

    async def reads() -> None:
        assert getattr(local, "user", None) is None

    async def main() -> None:
        for coroutine in (careful(), reads(), careful()):
            await asyncio.create_task(coroutine)

    with silence():
        run(main(), debug=True)
        run(main())


def test_what_an_object_sets_by_itself_on_each_thread_is_meant_for_all(run: Any) -> None:
    """A subclass's `__init__` runs once on each thread; later values belong to their setters."""

    async def reads() -> None:
        assert {} == registry.cache
        await asyncio.sleep(0)
        assert {} == registry.cache

    async def main() -> None:
        await asyncio.gather(reads(), reads())

    async def replaces() -> None:
        registry.cache = {}
        await asyncio.sleep(0)
        assert {} == registry.cache

    with silence():
        run(main(), debug=True)
    with pytest.warns(RuntimeWarning, match=r"registry\.cache.* set by .*replaces"):
        run(replaces(), debug=True)


@pytest.mark.starts("inline")
def test_callbacks_functions_and_protocols_are_requests_too(run: Any) -> None:
    """Each is named as in other reports."""

    class Remembers(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            local.peer = transport.get_extra_info("peername")

        def data_received(self, data: bytes) -> None:
            assert local.peer
            received.append(data)

    received: list[bytes] = []

    def callback_sets() -> None:
        local.user = "callback"

    def function_reads() -> None:
        assert "callback" == local.user

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Remembers, "127.0.0.1")
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for data in (b"x", b"y"):
            writer.write(data)
            await eventually(lambda data=data: data in received)  # type: ignore[misc]
        writer.close()
        server.close()
        loop.call_soon(callback_sets)
        await asyncio.sleep(0)
        pool = threadlets.Pool(limit=1)
        await pool.call(function_reads, abandon_on_cancel=True)

    with pytest.warns(RuntimeWarning) as seen:
        # A function that is slow to get CPU time must not be taken for one that blocks.
        run(main(), debug=True, preempt_ms=None)
    protocol, function = (str(it.message) for it in seen)
    assert ".Remembers.data_received (" in protocol
    assert "local.peer" in protocol
    assert ".function_reads (" in function
    assert ".callback_sets (" in function


def test_objects_are_not_kept_alive(run: Any) -> None:
    """Notes about an object are dropped with it."""

    async def main() -> weakref.ref[threading.local]:
        short_lived = threading.local()
        short_lived.value = 1
        return weakref.ref(short_lived)

    async def twice() -> None:
        found = await main()
        gc.collect()
        assert found() is None
        # Another object may get the same address.
        for _ in range(100):
            other = threading.local()
            assert not hasattr(other, "value")

    with silence():
        run(twice(), debug=True)


def test_other_threads_are_none_of_the_loops_business(run: Any) -> None:
    """The values of other threads are neither changed nor checked."""
    seen = []

    def elsewhere() -> None:
        local.user = "elsewhere"
        seen.append(local.user)

    async def main() -> None:
        for _ in range(2):
            thread = threading.Thread(target=elsewhere)
            thread.start()
            await asyncio.to_thread(thread.join)

    with silence():
        run(main(), debug=True)
    assert ["elsewhere"] * 2 == seen


@contextmanager
def guard() -> Iterator[bool]:
    """Yield whether the code is inside already; nothing suspends in here."""
    if getattr(local, "inside", False):
        yield True
        return
    local.inside = True
    try:
        yield False
    finally:
        local.inside = False


def set_and_put_back() -> None:
    """Set a value without a look before, and restore what was there, or None."""
    before = getattr(local, "quiet", None)
    local.quiet = True
    local.quiet = before


def set_and_reset() -> None:
    local.held = True
    local.held = False


def count_depth() -> None:
    local.depth = getattr(local, "depth", 0) + 1
    local.depth -= 1


def cached() -> object:
    try:
        found: object = local.cache
    except AttributeError:
        found = local.cache = object()
    return found


def cached_apart() -> object:
    """Look, make and use a value in three functions."""

    def is_there() -> bool:
        return hasattr(local, "connection")

    def make() -> None:
        local.connection = object()

    if not is_there():
        make()
    return local.connection


def renewed() -> int:
    """Return a cached value that is made anew from time to time."""
    if getattr(local, "token", 0) < 10:
        local.token = getattr(local, "token", 0) + 1
    return int(local.token)


@pytest.mark.parametrize(
    "use",
    [guard, set_and_put_back, set_and_reset, count_depth, cached, cached_apart, renewed],
)
def test_guards_and_caches_per_thread_are_no_news(run: Any, use: Any) -> None:
    """A reader that copes with any value relies on none."""

    async def uses() -> None:
        for _ in range(3):
            with use() if use is guard else nullcontext(use()):
                pass
            assert not getattr(local, "held", False)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(uses(), uses())
        asyncio.get_running_loop().call_soon(cached if use is guard else use)
        await asyncio.sleep(0)

    with silence():
        run(main(), debug=True)


def test_guard_that_is_held_while_a_threadlet_is_blocked_is_its_own(run: Any) -> None:
    """The guard is held on the blocked thread only; each other thread has its own."""

    async def main() -> None:
        gate = Gate()

        def function() -> None:
            with guard():
                gate()

        task = asyncio.create_task(threadlets.call(function))
        await gate.entered.wait()
        with guard() as is_inside:
            assert not is_inside
        gate.open()
        await task

    with silence():
        run(main(), debug=True)


def test_guard_that_is_held_over_a_suspension_is_named(run: Any) -> None:
    """Another task finds the guard held, by chance."""

    async def holds() -> None:
        if getattr(local, "inside", False):
            return
        local.inside = True
        await asyncio.sleep(0)
        local.inside = False

    async def main() -> None:
        await asyncio.gather(holds(), holds())

    with pytest.warns(RuntimeWarning, match="has read .*local.inside in another") as seen:
        run(main(), debug=True)
    assert 1 == len(seen)
    assert "puts it back by" in str(seen[0].message)


def test_what_a_request_sets_to_a_new_value_each_time_is_still_its(run: Any) -> None:
    """A value that was there before does not excuse a request that sets its own without a look."""
    local.user = "nobody"

    async def sets(name: str) -> None:
        local.user = name
        await asyncio.sleep(0)
        assert "b" == local.user

    async def main() -> None:
        await asyncio.gather(sets("a"), sets("b"))

    with pytest.warns(RuntimeWarning, match=r"sets .* reads .*local\.user"):
        run(main(), debug=True)


@pytest.mark.starts("inline")
def test_warning_that_is_an_error_goes_to_the_exception_handler(run: Any) -> None:
    """It is raised neither where the value is read nor at other checks."""
    failures = []

    def masks() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

    async def remembers() -> str:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        local.user = "me"
        await asyncio.sleep(0)
        found: str = local.user
        loop.call_soon(masks)
        await asyncio.sleep(0)
        gate = Gate()
        blocked = asyncio.create_task(threadlets.call(gate))
        await gate.entered.wait()
        gate.open()
        await blocked
        return found

    with warnings_as_errors():
        assert "me" == run(remembers(), debug=True)
    assert all(type(it) is RuntimeWarning for it in failures)
    read, left, stays = (str(it) for it in failures)
    assert "before the task suspended" in read
    assert "signal mask" in left
    assert "where a threadlet is blocked" in stays


def test_warnings_in_the_middle_of_the_loop_lose_no_request(run: Any) -> None:
    """Making a handle in debug mode looks at files through functions that may have been wrapped."""

    def wrapped(*args: Any) -> Any:
        assert "me" == local.user
        return stat(*args)

    stat = os.stat

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: None)
        future: asyncio.Future[str] = asyncio.Future(loop=loop)
        local.user = "me"
        os.stat = wrapped
        try:
            loop.call_soon(future.set_result, "done")
            return await future
        finally:
            os.stat = stat

    with warnings_as_errors():
        assert "done" == run(main(), debug=True)


def test_what_breaks_in_the_watch_does_not_break_the_request(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure of a check is reported, and the request runs."""
    reported = []
    monkeypatch.setattr("sys.unraisablehook", lambda it: reported.append(it.exc_value))

    async def main() -> str:
        loop: Any = asyncio.get_running_loop()
        failures = []
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        breaks = ZeroDivisionError("the watch")

        def fail(*args: Any) -> None:
            raise breaks

        monkeypatch.setattr(loop._debug_checks.thread_locals, "used", fail)
        local.user = "me"
        assert "me" == local.user
        for hook in ("request_begins", "request_ended"):
            with monkeypatch.context() as patch:
                patch.setattr(loop._debug_checks, hook, fail)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        assert failures
        assert all(it is breaks for it in (*failures, *reported))
        return "done"

    with warnings_as_errors():
        assert "done" == run(main(), debug=True)
    assert reported
