"""Debug mode names who reads a `threading.local` after a suspension, and who had set the value."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import threadlets

from .harness import Gate

local = threading.local()


class Registry(threading.local):
    """Made before any loop of the process runs in debug mode."""

    def __init__(self) -> None:
        self.cache: dict[str, int] = {}


registry = Registry()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Begin with nothing set on this thread."""
    yield
    vars(local).clear()


@contextmanager
def silence() -> Iterator[None]:
    """Let a warning fail the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_reader_is_named_that_has_suspended_since_it_set_the_value(run: Any) -> None:
    """With the value's name, both places, and the remedy; once."""

    async def remembers() -> None:
        local.user = "me"
        await asyncio.sleep(0)
        for _ in range(2):
            assert local.user == "me"

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
    """Both are on the same thread by chance."""

    async def sets() -> None:
        local.user = "me"

    async def reads() -> None:
        assert local.user == "me"

    async def main() -> None:
        await asyncio.create_task(sets())
        await asyncio.create_task(reads())

    with pytest.warns(RuntimeWarning, match=r"reads .*local\.user.* set by .*sets .*by chance"):
        run(main(), debug=True)


@pytest.mark.parametrize("tasks", ["native", "asyncio"])
def test_reader_that_goes_on_on_another_thread_is_named(run: Any, tasks: str) -> None:
    """The value has stayed where the function is blocked."""

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
    """Its thread has been its own all the while."""

    async def main() -> None:
        gate = Gate()

        def function() -> str:
            local.user = "me"
            gate()
            found: str = local.user
            del local.user
            return found

        task = asyncio.create_task(threadlets.call(function))
        with pytest.warns(RuntimeWarning, match="do not see them; use contextvars"):
            await gate.entered.wait()
        gate.open()
        assert await task == "me"

    with silence():
        run(main(), debug=True)


def test_what_a_request_sets_and_reads_by_itself_is_its_own_affair(run: Any) -> None:
    """Neither is what it deletes again, nor what others set anew, nor what was there before."""
    local.before = 1

    async def careful() -> None:
        local.user = "me"
        assert (local.user, local.before) == ("me", 1)
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
    """`__init__` of a subclass runs once for each thread; what others put in later is theirs."""

    async def reads() -> None:
        assert registry.cache == {}
        await asyncio.sleep(0)
        assert registry.cache == {}

    async def main() -> None:
        await asyncio.gather(reads(), reads())

    async def replaces() -> None:
        registry.cache = {}
        await asyncio.sleep(0)
        assert registry.cache == {}

    with silence():
        run(main(), debug=True)
    with pytest.warns(RuntimeWarning, match=r"registry\.cache.* set by .*replaces"):
        run(replaces(), debug=True)


def test_callbacks_functions_and_protocols_are_requests_too(run: Any) -> None:
    """Each is named as it is everywhere."""

    class Counts(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            local.seen = getattr(local, "seen", 0) + len(data)

    def callback_sets() -> None:
        local.user = "callback"

    def function_reads() -> None:
        assert local.user == "callback"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Counts, "127.0.0.1")
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for _ in range(2):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()
        server.close()
        loop.call_soon(callback_sets)
        await asyncio.sleep(0)
        pool = threadlets.Pool(limit=1)
        await pool.call(function_reads, abandon_on_cancel=True)

    with pytest.warns(RuntimeWarning) as seen:
        # A function that is slow to get the processor is not to be taken for one that blocks.
        run(main(), debug=True, preempt_ms=None)
    protocol, function = (str(it.message) for it in seen)
    assert ".Counts.data_received (" in protocol
    assert "local.seen" in protocol
    assert ".function_reads (" in function
    assert ".callback_sets (" in function


def test_objects_are_not_kept_alive(run: Any) -> None:
    """What was noted of one is dropped with it."""

    async def main() -> weakref.ref[threading.local]:
        short_lived = threading.local()
        short_lived.value = 1
        return weakref.ref(short_lived)

    async def twice() -> None:
        found = await main()
        gc.collect()
        assert found() is None
        # Another one may lie in the same place.
        for _ in range(100):
            other = threading.local()
            assert not hasattr(other, "value")

    with silence():
        run(twice(), debug=True)


def test_other_threads_are_none_of_the_loops_business(run: Any) -> None:
    """Their values are as they were, and are not looked at."""
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
    assert seen == ["elsewhere"] * 2


def test_warning_that_is_an_error_is_raised_where_the_value_is_read(run: Any) -> None:
    """As any warning is; the loop goes on."""

    async def remembers() -> str:
        local.user = "me"
        await asyncio.sleep(0)
        with pytest.raises(RuntimeWarning, match="before the task suspended"):
            local.user  # noqa: B018
        return "caught"

    with silence():
        assert run(remembers(), debug=True) == "caught"
