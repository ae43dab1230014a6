"""asgiref: awaited functions and called coroutines, nested in each other, across threads."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import threadlets
from blocking import WAYS, Way, block, blocked, call_inline, others_block, until_home

pytest.importorskip("asgiref", reason="asgiref is not installed")

from asgiref.local import Local  # After the skip.
from asgiref.sync import (
    SyncToAsync,
    ThreadSensitiveContext,
    async_to_sync,
    sync_to_async,
)

N_TASKS = 20
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def insensitive(function: Callable[..., Any]) -> Any:
    """Have asgiref call a function on any thread."""
    return sync_to_async(function, thread_sensitive=False)


# asgiref keeps state of a task by thread, so functions that block home on purpose are left out.
@pytest.fixture(params=[way for way in WAYS if way.call is not call_inline], ids=str)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Return a way in which functions block, like the folder's `way`."""
    way: Way = request.param
    with way.in_use():
        yield way


@pytest.fixture(autouse=True)
def thread_of_asgiref(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give asgiref a new thread for sensitive functions: a failed test may have blocked the last."""
    executor = ThreadPoolExecutor(1)
    monkeypatch.setattr(SyncToAsync, "single_thread_executor", executor)
    yield
    executor.shutdown(wait=False)


@pytest.fixture
def policy(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every new loop made by the way, because asgiref makes its own by `asyncio.run`."""
    if sys.version_info < (3, 14):
        policy = asyncio.DefaultEventLoopPolicy
    else:
        policy = asyncio.unix_events._DefaultEventLoopPolicy
    monkeypatch.setattr(policy, "new_event_loop", lambda _: way.loop_factory())


# -- functions that are awaited --------------------------------------------------------------------


@pytest.mark.parametrize("thread_sensitive", [True, False], ids=["sensitive", "insensitive"])
def test_functions_are_called(way: Way, run_way: Any, thread_sensitive: bool) -> None:
    """Functions may block, return or raise, and no loop runs where they are called."""

    def function(number: int) -> int:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        block()
        if number % 5 == 4:
            raise KeyError(number)
        return number

    async def main() -> list[Any]:
        call = sync_to_async(function, thread_sensitive=thread_sensitive)
        async with others_block(way.call, always=True):
            calls = (call(number) for number in range(N_TASKS))
            return await asyncio.gather(*calls, return_exceptions=True)

    for number, outcome in enumerate(run_way(main())):
        assert (outcome == number) or (number % 5 == 4 and isinstance(outcome, KeyError))


def test_sensitive_functions_share_a_thread(way: Way, run_way: Any) -> None:
    """They share a thread that is not the loop's, and those of a context another, with its locals."""
    local = threading.local()

    def count() -> tuple[int, int]:
        local.n_calls = getattr(local, "n_calls", 0) + 1
        return threading.get_ident(), local.n_calls

    async def in_context() -> list[tuple[int, int]]:
        async with ThreadSensitiveContext():
            return [await sync_to_async(count)() for _ in range(5)]

    async def main() -> None:
        async with others_block(way.call, always=True):
            calls = await asyncio.gather(*(sync_to_async(count)() for _ in range(N_TASKS)))
            contexts = await asyncio.gather(*(in_context() for _ in range(4)))
        assert 1 == len({thread for thread, _ in calls})
        assert list(range(1, N_TASKS + 1)) == sorted(n for _, n in calls)
        threads = set()
        for of_context in contexts:
            assert list(range(1, 6)) == [n for _, n in of_context]
            threads |= {thread for thread, _ in of_context}
        assert 6 == len(threads | {calls[0][0], threading.get_ident()})

    run_way(main())


def test_context_variables_go_in_and_come_back(way: Way, run_way: Any) -> None:
    """What a function sets is set for the coroutine that awaited it."""

    def function(text: str) -> str:
        seen = variable.get()
        block()
        variable.set(f"{text} back")
        return seen

    async def task(number: int) -> None:
        for call in (sync_to_async(function), insensitive(function)):
            variable.set(f"in {number}")
            assert await call(str(number)) == f"in {number}"
            assert variable.get() == f"{number} back"

    async def main() -> None:
        async with others_block(way.call, always=True):
            await asyncio.gather(*(task(number) for number in range(N_TASKS)))

    run_way(main())


def test_locals_last_across_awaits(way: Way, run_way: Any) -> None:
    """A task's values are there when it is resumed, and in the functions that it awaits."""
    local, critical = Local(), Local(thread_critical=True)

    def seen() -> tuple[Any, bool]:
        block()
        return local.value, hasattr(critical, "value")

    async def task(number: int) -> None:
        local.value = critical.value = number
        for _ in range(10):
            await asyncio.sleep(0.001)
            assert (local.value, critical.value) == (number, number)
        for call in (sync_to_async(seen), insensitive(seen)):
            assert await call() == (number, False)
        assert (local.value, critical.value) == (number, number)

    async def main() -> None:
        async with others_block(way.call, always=True):
            await asyncio.gather(*(task(number) for number in range(N_TASKS)))

    run_way(main())


# -- coroutines that are called --------------------------------------------------------------------


async def double(number: int) -> int:
    await asyncio.sleep(0.001)
    return 2 * number


def test_functions_call_coroutines_of_the_loop(way: Way, run_way: Any) -> None:
    """Within `sync_to_async`, coroutines run on the loop that awaits the function."""

    async def loop_and_double(number: int) -> tuple[int, Any]:
        return await double(number), asyncio.get_running_loop()

    def function(number: int) -> tuple[int, Any]:
        block()
        return async_to_sync(loop_and_double)(number)

    async def main() -> None:
        here = asyncio.get_running_loop()
        async with others_block(way.call, always=True):
            calls = [insensitive(function)(number) for number in range(N_TASKS)]
            calls += [sync_to_async(function)(number) for number in range(N_TASKS)]
            outcomes = await asyncio.gather(*calls)
        assert outcomes == [(2 * number, here) for number in range(N_TASKS)] * 2

    run_way(main())


def test_they_nest_both_ways(way: Way, run_way: Any) -> None:
    """Function, coroutine, function …: sensitive ones share one thread, which waits for its calls."""

    def function(depth: int) -> list[int]:
        block()
        here = [threading.get_ident()]
        return here + async_to_sync(coroutine)(depth - 1) if depth else here

    async def coroutine(depth: int) -> list[int]:
        await asyncio.sleep(0.001)
        threads: list[int] = await sync_to_async(function)(depth)
        return threads

    def loose(depth: int) -> int:
        block()
        return async_to_sync(loose_coroutine)(depth - 1) + 1 if depth else 0

    async def loose_coroutine(depth: int) -> int:
        n_below: int = await insensitive(loose)(depth)
        return n_below

    async def main() -> None:
        async with others_block(way.call, always=True):
            chains = await asyncio.gather(*(coroutine(3) for _ in range(5)))
            # Each of these calls keeps a thread of the loop's executor, which has few.
            depth = await loose_coroutine(2)
        assert [4] * 5 == [len(chain) for chain in chains]
        assert 1 == len({thread for chain in chains for thread in chain})
        assert 2 == depth

    run_way(main())


def test_threads_without_a_loop_call_coroutines(way: Way, run_way: Any, policy: None) -> None:
    """Where a function finds no loop, asgiref makes one; its functions come back to the thread."""
    if way.call is threadlets.call:
        pytest.skip("`threadlets.call` lets a function find the loop that awaits it")

    async def coroutine(number: int) -> tuple[int, int]:
        thread: int = await sync_to_async(threading.get_ident)()
        return await double(number), thread

    def function(number: int) -> tuple[int, bool]:
        block()
        answer, thread = async_to_sync(coroutine)(number)
        return answer, thread == threading.get_ident()

    async def main() -> list[tuple[int, bool]]:
        async with others_block(way.call, always=True):
            calls = (_awaited(way, function, number) for number in range(5))
            return await asyncio.gather(*calls)

    assert run_way(main()) == [(2 * number, True) for number in range(5)]


def test_plain_programs_call_coroutines(way: Way, policy: None) -> None:
    """Without any loop, sensitive functions run on the calling thread; others block beside them."""

    async def coroutine() -> tuple[set[int], int]:
        loop = asyncio.get_running_loop()
        async with others_block(way.call, always=True):
            calls = (sync_to_async(threading.get_ident)() for _ in range(N_TASKS))
            threads = set(await asyncio.gather(*calls))
            # A new task does not inherit the way back to the calling thread.
            task = loop.create_task(sync_to_async(threading.get_ident)())
            threads.add(await task)
            return threads, await double(21)

    assert async_to_sync(coroutine)() == ({threading.get_ident()}, 42)


def test_a_loop_is_no_place_to_call_a_coroutine(way: Way, run_way: Any) -> None:
    """asgiref refuses to call a coroutine on a thread that runs a loop, whichever thread that is."""

    async def main() -> None:
        async with others_block(way.call, always=True):
            for _ in range(20):
                await asyncio.sleep(0.001)
                with pytest.raises(RuntimeError, match="same thread as an async event loop"):
                    async_to_sync(double)(1)

    run_way(main())


async def _awaited(way: Way, *args: Any) -> Any:
    return await way.call(*args)


# -- while home is blocked -------------------------------------------------------------------------


def test_calls_begun_elsewhere_end_after_home_has_the_loop(run_threadlets: Any) -> None:
    """Tasks await functions, with and without a sensitive context, while home gets the role back."""
    release = threading.Event()

    def function(number: int) -> int:
        assert release.wait(20)
        return async_to_sync(double)(number)

    async def in_context(number: int) -> int:
        async with ThreadSensitiveContext():
            answer: int = await sync_to_async(function)(number)
            return answer

    async def main() -> list[int]:
        async with blocked(call_inline):
            tasks = [asyncio.create_task(in_context(number)) for number in range(5)]
            tasks += [asyncio.create_task(insensitive(function)(number)) for number in range(5)]
            await asyncio.sleep(0.01)
        await until_home()
        release.set()
        return await asyncio.gather(*tasks)

    assert run_threadlets(main()) == [2 * number for number in range(5)] * 2
