"""anyio's `to_thread.run_sync` on a threadlets loop: threadlets that keep its promises."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
import threadlets

anyio = pytest.importorskip("anyio", reason="anyio is not installed")

from anyio import from_thread, to_thread  # noqa: E402  # After the skip.
from threadlets.frameworks import (  # noqa: E402
    MissingPackage,
    _threads,
    use_threadlets_in_anyio,
)

pytestmark = pytest.mark.starts("inline", "beside")

N_BLOCKED = 100
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@contextlib.asynccontextmanager
async def _taken_over(gate: Any) -> Any:
    """Block the home thread, so that another worker runs the loop."""
    async with anyio.create_task_group() as group:
        group.start_soon(to_thread.run_sync, gate.wait)
        await gate.arrivals(1)
        yield
        gate.open()


# -- where functions run ---------------------------------------------------------------------------


@pytest.mark.starts("inline")
def test_a_quick_function_runs_on_the_loops_own_thread(run: Any) -> None:
    """No other thread is involved, and arguments and results pass."""

    async def main() -> tuple[list[int], bool]:
        threads = [await to_thread.run_sync(threading.get_ident) for _ in range(50)]
        return threads, await to_thread.run_sync(pow, 2, 10) == 1024

    threads, is_right = run(main())
    assert set(threads) == {threading.get_ident()}
    assert is_right


def test_more_functions_block_than_anyio_has_threads(run: Any) -> None:
    """A hundred functions meet at a barrier, which forty threads could not pass."""
    barrier = threading.Barrier(N_BLOCKED)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(N_BLOCKED):
                group.start_soon(to_thread.run_sync, barrier.wait, 30)

    run(main())
    assert not barrier.broken


def test_the_loop_goes_on_while_a_function_blocks(run: Any, start: str, gate: Any) -> None:
    """Other tasks and quick functions run, on another thread if the function blocks theirs."""

    async def main() -> tuple[int, int, int]:
        async with _taken_over(gate):
            await anyio.sleep(0)
            loop_thread = threading.get_ident()
            return loop_thread, await to_thread.run_sync(threading.get_ident), gate.n_passed

    loop_thread, function_thread, n_passed = run(main())
    is_inline = start == "inline"
    assert (loop_thread != threading.get_ident()) == is_inline
    assert (function_thread == loop_thread) == is_inline
    assert 0 == n_passed


def test_each_call_lets_other_tasks_run(run: Any) -> None:
    """Calling quick functions again and again does not hold up the loop."""

    async def main() -> None:
        is_set = asyncio.Event()
        asyncio.get_running_loop().call_soon(is_set.set)
        while not is_set.is_set():
            await to_thread.run_sync(int)

    run(main())


def test_no_loop_runs_inside_a_function(run: Any) -> None:
    """As in a thread, a function may run a loop of its own: asyncio's, threadlets', anyio's."""

    async def answer() -> int:
        await anyio.sleep(0)
        return await to_thread.run_sync(int, "42")

    def function() -> tuple[Any, ...]:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        loop = asyncio.new_event_loop()
        with contextlib.closing(loop):
            first = loop.run_until_complete(answer())
        return first, asyncio.run(answer()), threadlets.run(answer()), anyio.run(answer)

    async def main() -> tuple[Any, ...]:
        here = asyncio.get_running_loop()
        answers = await to_thread.run_sync(function)
        assert asyncio.get_running_loop() is here
        assert asyncio.current_task() is not None
        return answers

    assert (42, 42, 42, 42) == run(main())


def test_no_library_runs_inside_a_function(run: Any) -> None:
    """sniffio detects no library there either, whatever the caller's context says."""
    sniffio = pytest.importorskip("sniffio", reason="sniffio is not installed")

    def function() -> None:
        with pytest.raises(sniffio.AsyncLibraryNotFoundError):
            sniffio.current_async_library()

    async def main() -> None:
        sniffio.current_async_library_cvar.set("asyncio")
        await to_thread.run_sync(function)
        assert "asyncio" == sniffio.current_async_library()

    run(main())


# -- what passes -----------------------------------------------------------------------------------


def test_a_function_gets_a_copy_of_the_context(run: Any) -> None:
    """A function sees its caller's variables; what it sets itself stays in the copy."""

    def function() -> str:
        seen = variable.get()
        variable.set("inside")
        return seen

    async def main() -> tuple[str, str]:
        variable.set("outside")
        return await to_thread.run_sync(function), variable.get()

    assert ("outside", "outside") == run(main())


def test_an_exception_passes(run: Any) -> None:
    """The caller gets the exception itself; StopIteration is the cause of a RuntimeError."""
    error = LookupError("mine")

    def fail(exception: BaseException) -> None:
        raise exception

    async def main() -> None:
        with pytest.raises(LookupError) as raised:
            await to_thread.run_sync(fail, error)
        assert raised.value is error
        with pytest.raises(RuntimeError) as raised_instead:
            await to_thread.run_sync(fail, StopIteration())
        assert isinstance(raised_instead.value.__cause__, StopIteration)

    run(main())


def test_a_function_calls_back_into_the_loop(run: Any) -> None:
    """`from_thread` runs coroutines and functions on the caller's loop, in the caller's context."""

    async def on_loop(text: str) -> tuple[str, str, Any]:
        await anyio.sleep(0)
        return text.upper(), variable.get(), asyncio.get_running_loop()

    def function() -> tuple[Any, Any]:
        return from_thread.run(on_loop, "shout"), from_thread.run_sync(asyncio.get_running_loop)

    async def main() -> None:
        variable.set("caller")
        here = asyncio.get_running_loop()
        assert await to_thread.run_sync(function) == (("SHOUT", "caller", here), here)

    run(main())


def test_a_function_calls_back_after_a_takeover(run: Any, gate: Any) -> None:
    """`from_thread` finds the loop also after the function has blocked, and while others block."""

    def function() -> bool:
        gate.wait()
        return from_thread.run_sync(threading.get_ident) != threading.get_ident()

    async def main() -> list[bool]:
        outcomes: list[bool] = []

        async def call() -> None:
            outcomes.append(await to_thread.run_sync(function))

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(call)
            await gate.arrivals(10)
            gate.open()
        return outcomes

    assert [True] * 10 == run(main())


def test_a_loop_inside_a_function_leaves_the_way_back(run: Any) -> None:
    """A function that has run a threadlets loop of its own still finds the outer loop."""

    def function() -> Any:
        async def inner() -> Any:
            return await to_thread.run_sync(from_thread.run_sync, asyncio.get_running_loop)

        return type(threadlets.run(inner())), from_thread.run_sync(asyncio.get_running_loop)

    async def main() -> None:
        here = asyncio.get_running_loop()
        assert await to_thread.run_sync(function) == (threadlets.Loop, here)

    run(main())


def test_the_way_back_ends_with_the_function(run: Any) -> None:
    """On the loop itself, `from_thread` raises an error, as it does without threadlets."""

    async def main() -> None:
        await to_thread.run_sync(int)
        with pytest.raises(RuntimeError):
            from_thread.run_sync(int)

    run(main())


# -- cancellation ----------------------------------------------------------------------------------


def test_a_cancellation_waits_for_the_function(run: Any, gate: Any) -> None:
    """The scope is left cancelled, but only after the function has returned."""

    async def main() -> tuple[int, bool]:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(to_thread.run_sync, gate.wait)
                await gate.arrivals(1)
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0)
                    assert 0 == gate.n_passed
                gate.open()
        return gate.n_passed, scope.cancelled_caught

    assert (1, True) == run(main())


def test_an_abandoned_function_goes_on_alone(run: Any, gate: Any) -> None:
    """With `abandon_on_cancel` the scope ends at once, and the function ends later."""

    async def main() -> tuple[int, bool]:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(_abandonably, gate.wait)
                await gate.arrivals(1)
                scope.cancel()
        n_passed = gate.n_passed
        gate.open()
        while not gate.n_passed:
            await anyio.sleep(0)
        return n_passed, scope.cancelled_caught

    async def _abandonably(function: Callable[[], Any]) -> None:
        await to_thread.run_sync(function, abandon_on_cancel=True)

    assert (0, True) == run(main())


def test_a_cancelled_scope_calls_nothing(run: Any) -> None:
    """The call is a checkpoint: in a cancelled scope the function is never called."""
    calls: list[int] = []

    async def main() -> bool:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await to_thread.run_sync(calls.append, 1)
        return scope.cancelled_caught

    assert run(main())
    assert [] == calls


def test_a_cancelled_task_calls_nothing(run: Any, start: str) -> None:
    """A function is not called for a task that asyncio has cancelled before; one that is queued, not any more."""
    calls: list[int] = []

    async def main() -> None:
        task = asyncio.create_task(to_thread.run_sync(calls.append, 1))
        if start == "beside":
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert [] == calls


@pytest.mark.parametrize("abandons", [False, True])
def test_a_function_sees_that_it_is_cancelled(run: Any, gate: Any, abandons: bool) -> None:
    """`check_cancelled` raises once the scope of the call is cancelled, and not before."""
    verdicts: list[str] = []

    def function() -> None:
        from_thread.check_cancelled()
        gate.wait()
        try:
            from_thread.check_cancelled()
        except asyncio.CancelledError:
            verdicts.append("cancelled")

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def call() -> None:
                    await to_thread.run_sync(function, abandon_on_cancel=abandons)

                group.start_soon(call)
                await gate.arrivals(1)
                scope.cancel()
                gate.open()
        while not verdicts:
            await anyio.sleep(0)

    run(main())
    assert ["cancelled"] == verdicts


def test_a_coroutine_called_back_is_cancelled_with_the_scope(run: Any) -> None:
    """A coroutine that a function runs on the loop belongs to the scope of the function's call."""
    begun = threading.Event()

    async def forever() -> None:
        begun.set()
        await anyio.sleep_forever()

    def function() -> None:
        with pytest.raises(concurrent.futures.CancelledError):
            from_thread.run(forever)

    async def main() -> bool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(to_thread.run_sync, function)
                while not begun.is_set():
                    await anyio.sleep(0)
                scope.cancel()
        return scope.cancelled_caught

    assert run(main())


# -- limiters --------------------------------------------------------------------------------------


def test_a_limiter_that_is_passed_is_obeyed(run: Any, gate: Any) -> None:
    """Two of six functions run at a time, and the limiter counts them."""

    async def main() -> None:
        limiter = anyio.CapacityLimiter(2)

        async def call() -> None:
            await to_thread.run_sync(gate.wait, limiter=limiter)

        await _expect_limit(gate, limiter, call)

    run(main())


def test_a_default_limiter_that_was_changed_is_obeyed(run: Any, gate: Any) -> None:
    """A default limiter whose tokens were set is meant to limit the functions."""

    async def main() -> None:
        limiter = to_thread.current_default_thread_limiter()
        limiter.total_tokens = 2

        async def call() -> None:
            await to_thread.run_sync(gate.wait)

        await _expect_limit(gate, limiter, call)

    run(main())


async def _expect_limit(gate: Any, limiter: Any, call: Callable[[], Any]) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(call)
        await gate.arrivals(2)
        while limiter.statistics().tasks_waiting < 4:
            await anyio.sleep(0)
        assert (2, 2) == (gate.n_arrived, limiter.borrowed_tokens)
        gate.open()
    assert (6, 0) == (gate.n_passed, limiter.borrowed_tokens)


# -- putting back, and other loops -----------------------------------------------------------------


def test_the_stock_loop_is_left_alone(run_on_stock_loop: Any) -> None:
    """On asyncio's loop functions run in anyio's worker threads."""

    async def main() -> str:
        return (await to_thread.run_sync(threading.current_thread)).name

    with use_threadlets_in_anyio():
        assert "AnyIO worker thread" == run_on_stock_loop(main())


async def _thread() -> str:
    return (await to_thread.run_sync(threading.current_thread)).name


def _is_replaced(run: Any) -> bool:
    return bool(run(_thread()) != "AnyIO worker thread")


def test_nothing_is_replaced_until_it_is_asked_for(run_on_threadlets: Any) -> None:
    """Importing threadlets.frameworks changes nothing."""
    assert not _is_replaced(run_on_threadlets)


def test_undo_puts_the_worker_threads_back(run_on_threadlets: Any) -> None:
    """Undoing a second time does no harm; the method is anyio's own again."""
    before = vars(anyio._backends._asyncio.AsyncIOBackend)["run_sync_in_worker_thread"]
    replacement = use_threadlets_in_anyio()
    assert _is_replaced(run_on_threadlets)
    replacement.undo()
    replacement.undo()
    assert not _is_replaced(run_on_threadlets)
    after = vars(anyio._backends._asyncio.AsyncIOBackend)["run_sync_in_worker_thread"]
    assert before is after


def test_the_end_of_a_with_block_undoes(run_on_threadlets: Any) -> None:
    """The worker threads are used again after the block, also when an exception ends it."""

    def fail() -> None:
        with use_threadlets_in_anyio():
            assert _is_replaced(run_on_threadlets)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert not _is_replaced(run_on_threadlets)


def test_the_last_one_out_undoes(run_on_threadlets: Any) -> None:
    """A replacement by two callers lasts until both have undone it."""
    first, second = use_threadlets_in_anyio(), use_threadlets_in_anyio()
    first.undo()
    first.undo()
    assert _is_replaced(run_on_threadlets)
    second.undo()
    assert not _is_replaced(run_on_threadlets)


# -- packages that are missing ---------------------------------------------------------------------


def test_a_missing_anyio_is_named(forget: Callable[[str], None]) -> None:
    """The error says what cannot be done, why, and what to install."""
    forget("anyio")
    with pytest.raises(MissingPackage) as raised:
        _threads._Anyio()
    assert "anyio" == raised.value.name
    expected = (
        "cannot run anyio's functions as threadlets: the package 'anyio' is not installed; "
        "pip install anyio"
    )
    assert expected == str(raised.value)


def test_an_unknown_anyio_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An anyio that lacks a function that we need is refused before anything is replaced."""
    monkeypatch.delattr("anyio._core._eventloop.claim_worker_thread")
    with pytest.raises(MissingPackage, match=r"is of a version that .*claim_worker_thread"):
        _threads._Anyio()
