"""`threadlets.call`: a function runs where it is awaited or beside it, and the loop goes on when it blocks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import threadlets
from waiting import eventually

from .harness import Gate, counts, n_takeovers

pytestmark = pytest.mark.starts("inline", "beside")

variable = contextvars.ContextVar("variable", default="unset")


def add(a: int, b: int = 0, *, c: int = 0) -> int:
    return a + b + c


def test_call_passes_arguments_and_result(run: Any) -> None:
    """Positional and named arguments arrive, and the result comes back."""

    async def main() -> tuple[int, int]:
        return await threadlets.call(add, 1, 2, c=3), await threadlets.call(add, 1)

    assert (6, 1) == run(main())


@pytest.mark.starts("inline")
def test_function_that_does_not_block_runs_on_the_loops_thread(
    run: Any, without_forced_switches: None
) -> None:
    """An inline call involves no other thread until something blocks."""

    async def main() -> None:
        here = threading.get_ident()
        assert here == await threadlets.call(threading.get_ident) == threading.get_ident()
        assert 0 == n_takeovers(threadlets.stats())

    run(main())


def test_loop_goes_on_while_a_function_is_blocked(
    run: Any, start: str, without_forced_switches: None
) -> None:
    """A task of the loop opens the gate for which a function waits; an inline call moves the role."""

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate, "through"))
        await gate.entered.wait()
        assert not task.done()
        gate.open()
        assert "through" == await task
        assert n_takeovers(threadlets.stats()) == int(start == "inline")

    run(main())


def test_coroutine_continues_on_the_functions_thread_as_the_same_task(run: Any) -> None:
    """After a call the thread, the task, the loop and the context are those of before."""

    async def caller(gate: Gate) -> str:
        variable.set("the caller's")
        before = (threading.get_ident(), asyncio.current_task(), asyncio.get_running_loop())
        await threadlets.call(gate)
        after = (threading.get_ident(), asyncio.current_task(), asyncio.get_running_loop())
        assert before == after
        await asyncio.sleep(0)
        assert asyncio.current_task() is before[1]
        return variable.get()

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(caller(gate))
        await gate.entered.wait()
        assert "unset" == variable.get()
        assert asyncio.current_task() is not task
        gate.open()
        assert "the caller's" == await task

    run(main())


def test_another_thread_is_told_of_the_task_whose_step_the_loop_takes(run: Any) -> None:
    """`current_task(loop)` returns the task that runs, not an earlier one that awaits a function."""

    def ask(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
        told: list[asyncio.Task[Any] | None] = []
        thread = threading.Thread(target=lambda: told.append(asyncio.current_task(loop)))
        thread.start()
        thread.join()
        return told[0]

    async def main() -> None:
        loop, gate = asyncio.get_running_loop(), Gate()

        async def caller() -> bool:
            await threadlets.call(gate)
            return ask(loop) is asyncio.current_task()

        task = asyncio.create_task(caller())
        await gate.entered.wait()
        assert ask(loop) is asyncio.current_task() is not task
        loop.call_soon(lambda: told.append(ask(loop)))
        told: list[Any] = []
        await asyncio.sleep(0)
        gate.open()
        assert await task
        assert [None] == told

    run(main())


def test_exception_passes_with_its_traceback(run: Any) -> None:
    """A function's exception reaches the awaiter with its traceback, before and after a take-over."""

    def fail() -> None:
        raise KeyError("inner")

    async def main() -> None:
        with pytest.raises(KeyError, match="inner") as caught:
            await threadlets.call(fail)
        assert "fail" == caught.traceback[-1].name
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate, ValueError("late")))
        await gate.entered.wait()
        gate.open()
        with pytest.raises(ValueError, match="late"):
            await task

    run(main())


def test_context_is_the_callers_own(run: Any) -> None:
    """A function sees the context variables of its caller, and what it sets stays set."""

    async def main() -> str:
        variable.set("outer")
        assert "outer" == await threadlets.call(variable.get)
        await threadlets.call(variable.set, "inner")
        return variable.get()

    assert "inner" == run(main())


def test_function_sees_the_loop_that_called_it(run: Any) -> None:
    """The running loop is the caller's, before and after the function blocks."""

    def function(gate: Gate) -> list[Any]:
        seen = [asyncio.get_running_loop()]
        gate()
        return [*seen, asyncio.get_running_loop()]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate()
        task = asyncio.create_task(threadlets.call(function, gate))
        await gate.entered.wait()
        gate.open()
        assert await task == [loop, loop]

    run(main())


def test_stop_iteration_does_not_end_the_coroutine(run: Any) -> None:
    """StopIteration becomes a RuntimeError, as in every coroutine."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await threadlets.call(next, iter(()))

    run(main())


def test_call_works_from_a_nested_call(run: Any) -> None:
    """A blocked function waits for a coroutine that awaits another blocked function."""

    async def inner(gate: Gate) -> str:
        return str(await threadlets.call(gate, "inner"))

    async def main() -> str:
        loop = asyncio.get_running_loop()
        gate = Gate()

        def outer() -> str:
            return asyncio.run_coroutine_threadsafe(inner(gate), loop).result() + " in outer"

        task = asyncio.create_task(threadlets.call(outer))
        await gate.entered.wait()
        gate.open()
        return await task

    assert "inner in outer" == run(main())


def test_call_inside_a_threadlet_is_a_plain_call(run: Any) -> None:
    """A call that a function drives by `send` needs no loop to come back to."""

    def outer() -> int:
        with pytest.raises(StopIteration) as caught:
            threadlets.call(add, 1, 2).send(None)
        return int(caught.value.value)

    async def main() -> int:
        return await threadlets.call(outer)

    assert 3 == run(main())


def test_call_works_in_generators(run: Any) -> None:
    """A call works in an async generator, and can take a plain generator's next step."""

    async def numbers(gate: Gate) -> AsyncIterator[int]:
        yield await threadlets.call(add, 1)
        yield await threadlets.call(gate, 2)

    def steps(gate: Gate) -> Iterator[int]:
        yield 3
        yield gate(4)

    async def main() -> list[int]:
        gate = Gate()

        async def collect() -> list[int]:
            plain = steps(gate)
            seen = [number async for number in numbers(gate)]
            return [*seen, await threadlets.call(next, plain), await threadlets.call(next, plain)]

        task = asyncio.create_task(collect())
        await gate.entered.wait()
        gate.open()
        return await task

    assert [1, 2, 3, 4] == run(main())


def test_call_is_a_coroutine_for_asyncio(run: Any) -> None:
    """`create_task`, `gather`, `wait_for` and task groups take it as it is."""

    async def main() -> list[int]:
        call = threadlets.call(add, 0)
        assert asyncio.iscoroutine(call)
        assert inspect.isawaitable(call)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(threadlets.call(add, 1))
        first = await asyncio.wait_for(call, 5)
        return [first, task.result(), *await asyncio.gather(threadlets.call(add, 2))]

    assert [0, 1, 2] == run(main())


def test_call_that_is_never_awaited_warns() -> None:
    """As for a coroutine; the warning has the function's name."""
    with pytest.warns(RuntimeWarning, match="threadlet call of 'add' was never awaited"):
        threadlets.call(add, 1)
    call = threadlets.call(add, 1)
    call.close()
    del call


def test_call_releases_what_it_was_given(run: Any) -> None:
    """Nothing holds on to the arguments, the result or the function afterwards."""

    class Thing:
        pass

    def take(thing: Thing) -> Thing:
        return thing

    async def main() -> None:
        thing = Thing()
        n_before = sys.getrefcount(thing)
        for _ in range(10):
            await threadlets.call(take, thing)
            await threadlets.call(take, thing=thing)
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate, thing))
        await gate.entered.wait()
        gate.open()
        await task
        del task
        # The callback that resumed this task still has the other task as its argument.
        await asyncio.sleep(0)
        gc.collect()
        n_after = sys.getrefcount(thing)
        assert n_after == n_before

    run(main())


def test_call_names_itself_after_its_function() -> None:
    """A call has its function's name, for debuggers and task reprs."""
    call = threadlets.call(add, 1)
    assert ("add", "add") == (call.__name__, call.__qualname__)
    call.close()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: threadlets.call(3), TypeError, "not callable"),  # type: ignore[arg-type]
        (lambda: threadlets.call(), TypeError, "takes a function"),  # type: ignore[call-arg]
        (lambda: threadlets.Pool().call(3), TypeError, "not callable"),  # type: ignore[arg-type]
    ],
)
def test_call_of_what_is_no_function_is_refused(
    make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    """The error is raised when the call is made, not when it is awaited."""
    with pytest.raises(error, match=message):
        make()


def test_coroutine_function_is_refused(run: Any) -> None:
    """Its coroutine would never be awaited; the error says what to do instead."""

    async def main() -> None:
        with pytest.raises(TypeError, match="await it directly"):
            await threadlets.call(asyncio.sleep, 0)

    run(main())


def test_second_await_is_refused(run: Any) -> None:
    """A call can be awaited once only."""

    async def main() -> None:
        call = threadlets.call(add, 1)
        await call
        with pytest.raises(RuntimeError, match="twice"):
            await call

    run(main())


def test_other_loops_are_refused() -> None:
    """`call` and `stats` refuse loops without our dispatcher: no worker could take over."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"threadlets\.run"):
            await threadlets.call(add, 1)
        with pytest.raises(RuntimeError, match=r"threadlets\.run"):
            threadlets.stats()

    asyncio.run(main())


def test_recursion_ends_with_an_error_not_a_crash(run: Any) -> None:
    """Recursion that is too deep raises RecursionError on a worker too, in Python and in C code."""

    def recurse(depth: int) -> int:
        return recurse(depth + 1)

    def nested() -> str:
        assert threading.current_thread() is not threading.main_thread()
        deep: list[Any] = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(RecursionError):
            repr(deep)
        while deep:
            deep = deep.pop()
        return "deep"

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(threadlets.call(gate))
        await gate.entered.wait()
        with pytest.raises(RecursionError):
            await threadlets.call(recurse, 0)
        assert "deep" == await threadlets.call(nested)
        gate.open()
        await task

    run(main())


class TestThreadlet:
    """The decorator `threadlet`."""

    def test_signature_stays_and_the_call_is_awaitable(self, run: Any) -> None:
        """A decorated function keeps its name and its signature, and refers to the original."""
        wrapped = threadlets.threadlet(add)
        assert inspect.signature(wrapped) == inspect.signature(add)
        assert (wrapped.__name__, wrapped.__wrapped__) == ("add", add)  # type: ignore[attr-defined]

        async def main() -> int:
            return await wrapped(1, c=2)

        assert 3 == run(main())

    def test_methods_can_be_threadlets(self, run: Any) -> None:
        """A method that is a threadlet gets its `self`."""

        class Store:
            def __init__(self) -> None:
                self.items: list[int] = []

            @threadlets.threadlet
            def put(self, item: int) -> int:
                self.items.append(item)
                return len(self.items)

        async def main() -> int:
            store = Store()
            await store.put(1)
            return await store.put(2)

        assert 2 == run(main())

    def test_pool_and_abandon_on_cancel_are_options(self, run: Any) -> None:
        """Calls count in the decorator's pool, and cancelling one does not wait for its function."""
        pool = threadlets.Pool("named")

        @threadlets.threadlet(pool=pool, abandon_on_cancel=True)
        def blocked(gate: Gate) -> None:
            gate()

        async def main() -> None:
            gate = Gate()
            task = asyncio.create_task(blocked(gate))
            await gate.entered.wait()
            assert 1 == pool.stats()["running"]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.open()
            await eventually(lambda: counts(pool)["running"] == 0)

        run(main())
        assert {"running": 0, "queued": 0, "calls": 1, "cancelled": 0} == counts(pool)

    def test_asynchronous_functions_are_refused(self) -> None:
        """The error is raised at decoration, and names the remedy."""

        async def coroutine() -> None: ...

        with pytest.raises(TypeError, match="leave the decorator out"):
            threadlets.threadlet(coroutine)
