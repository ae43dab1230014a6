"""Futures: callbacks, exceptions, how they are settled, and what they show."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import copy
import pickle
import threading
import weakref
from typing import Any

import pytest

from .harness import Run, collect, native_only, note_failures, ticks


def future_of(loop: asyncio.AbstractEventLoop | None = None) -> asyncio.Future[Any]:
    return (loop or asyncio.get_running_loop()).create_future()


def test_it_passes_for_asyncios(run: Run) -> None:
    """isinstance, isfuture and ensure_future treat our futures and tasks like asyncio's."""

    async def main() -> list[bool]:
        future = future_of()
        task = asyncio.create_task(asyncio.sleep(0))
        return [
            isinstance(future, asyncio.Future),
            not isinstance(future, asyncio.Task),
            isinstance(task, asyncio.Task),
            isinstance(task, asyncio.Future),
            asyncio.isfuture(future),
            asyncio.isfuture(task),
            asyncio.ensure_future(future) is future,
            asyncio.wrap_future(future) is future,
            not asyncio.iscoroutine(future),
            not asyncio.iscoroutine(task),
            future.get_loop() is asyncio.get_running_loop(),
        ]

    assert [True] * 11 == run(main())


def test_callbacks_run_in_order_and_later(run: Run) -> None:
    """Callbacks run in the tick after the one in which the future became done, in order."""

    async def main() -> list[Any]:
        called: list[Any] = []
        future = future_of()
        for number in range(4):
            future.add_done_callback(
                lambda it, number=number: called.append((number, it is future))
            )
        future.set_result(None)
        assert [] == called
        await ticks(1)
        return called

    assert run(main()) == [(number, True) for number in range(4)]


def test_a_callback_added_late_runs_too(run: Run) -> None:
    """A callback that is added to a done future is called in the next tick, not at once."""

    async def main() -> list[int]:
        called: list[int] = []
        future = future_of()
        future.set_result(None)
        future.add_done_callback(lambda _: called.append(1))
        assert [] == called
        await ticks(1)
        return called

    assert [1] == run(main())


def test_removing_during_callbacks(run: Run) -> None:
    """A done future has no callbacks left to remove; scheduled ones still run."""

    async def main() -> tuple[list[str], list[int]]:
        called: list[str] = []
        removed: list[int] = []
        future = future_of()

        def second(_future: Any) -> None:
            called.append("second")

        def first(_future: Any) -> None:
            called.append("first")
            removed.append(future.remove_done_callback(second))

        future.add_done_callback(first)
        future.add_done_callback(second)
        future.set_result(None)
        await ticks(1)
        return called, removed

    assert (["first", "second"], [0]) == run(main())


def test_removing_counts_equal_callbacks(run: Run) -> None:
    """All callbacks that are equal are removed and counted; the tasks that wait stay."""

    async def main() -> tuple[int, list[int]]:
        future = future_of()
        got: list[int] = []

        async def body() -> None:
            got.append(await future)

        task = asyncio.create_task(body())
        await ticks(1)
        for _ in range(3):
            future.add_done_callback(got.append)  # type: ignore[arg-type]
        n_removed = future.remove_done_callback(got.append)  # type: ignore[arg-type]
        future.set_result(7)
        await task
        return n_removed, got

    assert (3, [7]) == run(main())


def test_a_callback_that_fails_is_reported(run: Run) -> None:
    """An exception in a callback is reported, and the other callbacks run."""

    async def main() -> tuple[list[str], list[int]]:
        failures = note_failures()
        called: list[int] = []
        future = future_of()

        def fails(_future: Any) -> None:
            raise KeyError("x")

        future.add_done_callback(fails)
        future.add_done_callback(lambda _: called.append(1))
        future.set_result(None)
        await ticks(1)
        return [repr(it["exception"]) for it in failures], called

    assert (["KeyError('x')"], [1]) == run(main())


def test_a_callback_runs_in_its_context(run: Run) -> None:
    """A callback runs in the context in which it was added, or in the given one."""

    async def main() -> list[str]:
        variable = contextvars.ContextVar("variable", default="none")
        seen: list[str] = []
        future = future_of()
        variable.set("added here")
        future.add_done_callback(lambda _: seen.append(variable.get()))
        given = contextvars.copy_context()
        given.run(variable.set, "given")
        future.add_done_callback(lambda _: seen.append(variable.get()), context=given)
        variable.set("changed")
        future.set_result(None)
        await ticks(1)
        return seen

    assert ["added here", "given"] == run(main())


@pytest.mark.parametrize("kind_of_error", [StopIteration, StopIteration("x")], ids=repr)
def test_stop_iteration_is_refused(run: Run, kind_of_error: Any) -> None:
    """StopIteration would end the awaiting coroutine, so asyncio refuses or converts it."""

    async def main() -> Any:
        future = future_of()
        try:
            future.set_exception(kind_of_error)
        except TypeError:
            future.cancel()
            return "refused"
        with pytest.raises(RuntimeError) as caught:
            await future
        assert isinstance(caught.value.__cause__, StopIteration)
        return "refused"

    assert "refused" == run(main())


@pytest.mark.parametrize("wrong", [3, "x", object, int, None], ids=repr)
def test_only_exceptions_can_be_set(run: Run, wrong: Any) -> None:
    """Anything but an exception is refused with TypeError, and the future stays pending."""

    async def main() -> bool:
        future = future_of()
        with pytest.raises(TypeError):
            future.set_exception(wrong)
        return future.done()

    assert run(main()) is False


def test_states_are_final(run: Run) -> None:
    """A second outcome, and a question before the first, is refused with InvalidStateError."""

    async def main() -> None:
        pending = future_of()
        with pytest.raises(asyncio.InvalidStateError, match="Result is not set"):
            pending.result()
        with pytest.raises(asyncio.InvalidStateError, match="Exception is not set"):
            pending.exception()
        pending.set_result(1)
        with pytest.raises(asyncio.InvalidStateError):
            pending.set_result(2)
        with pytest.raises(asyncio.InvalidStateError):
            pending.set_exception(KeyError())
        assert pending.cancel() is False
        assert pending.exception() is None
        cancelled = future_of()
        assert cancelled.cancel("why") is True
        assert cancelled.cancel("again") is False
        for ask in (cancelled.result, cancelled.exception):
            with pytest.raises(asyncio.CancelledError) as caught:
                ask()
            assert ("why",) == caught.value.args
        with pytest.raises(asyncio.InvalidStateError):
            cancelled.set_result(1)

    run(main())


def test_an_exception_that_was_not_retrieved_is_reported_once(run: Run) -> None:
    """The handler is called when the future is freed, unless the exception was retrieved."""

    async def main() -> list[str]:
        failures = note_failures()
        for asks in (False, True):
            future = future_of()
            future.set_exception(KeyError("x"))
            if asks:
                future.exception()
            del future
            collect()
        return [it["message"] for it in failures]

    assert ["Future exception was never retrieved"] == run(main())


def test_a_cycle_is_collected(run: Run) -> None:
    """A future that refers to itself by result, exception, attribute or callback is collected."""

    async def main() -> list[bool]:
        references = []
        for make in ("result", "attribute", "callback", "exception"):
            future = future_of()
            if make == "result":
                future.set_result([future])
            elif make == "attribute":
                future.mine = future  # type: ignore[attr-defined]
            elif make == "callback":
                future.add_done_callback(lambda _, future=future: None)
            else:
                error = KeyError(future)
                future.set_exception(error)
                future.exception()
                del error
            references.append(weakref.ref(future))
            del future
        collect()
        return [reference() is None for reference in references]

    assert [True] * 4 == run(main())


@native_only
def test_futures_in_futures_go_one_after_the_other(run: Run) -> None:
    """Nested futures are freed one by one, however deep; those with other references stay."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        held = loop.create_future()
        held.set_result("kept")
        future = loop.create_future()
        future.set_result(held)
        gone = weakref.ref(future)
        for _ in range(300_000):
            outer = loop.create_future()
            outer.set_result(future)
            future = outer
        del outer, future
        assert gone() is None
        assert "kept" == held.result()

    run(main())


def test_it_can_be_revived_while_it_goes(run: Run) -> None:
    """A handler may keep the future, which stays usable and is not reported again."""

    async def main() -> tuple[int, str]:
        failures = note_failures()
        future = future_of()
        future.set_exception(KeyError("x"))
        del future
        collect()
        (kept,) = (it["future"] for it in failures)
        assert kept.done()
        shown = repr(kept.exception())
        failures.clear()
        del kept
        collect()
        return len(failures), shown

    assert (0, "KeyError('x')") == run(main())


def test_attributes_can_be_set_and_deleted(run: Run) -> None:
    """Other code can set and delete attributes of futures and tasks."""

    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        for holder in (future_of(), task):
            with pytest.raises(AttributeError):
                holder.mine  # noqa: B018
            holder.mine = 1  # type: ignore[attr-defined]
            assert 1 == holder.mine  # type: ignore[attr-defined]
            del holder.mine  # type: ignore[attr-defined]
            with pytest.raises(AttributeError):
                del holder.mine  # type: ignore[attr-defined]
            assert not hasattr(holder, "mine")

    run(main())


def test_it_cannot_be_copied_or_pickled(run: Run) -> None:
    """A future belongs to one loop: pickle and copy refuse it."""

    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        for holder in (future_of(), task):
            for refuse in (pickle.dumps, copy.copy):
                with pytest.raises(TypeError):
                    refuse(holder)

    run(main())


def test_it_is_itself_only(run: Run) -> None:
    """A future is equal to itself only, and can be in sets and weak sets."""

    async def main() -> None:
        first, second = future_of(), future_of()
        assert first == first
        assert first != second
        assert 2 == len({first, second, first})
        assert 2 == len(weakref.WeakSet([first, second]))
        assert asyncio.Future[int].__origin__ is asyncio.Future  # type: ignore[attr-defined]

    run(main())


def test_its_repr_tells_the_state(run: Run) -> None:
    """The repr of a future is asyncio's, name for name."""

    async def main() -> list[str]:
        pending, done, failed, gone = (future_of() for _ in range(4))
        done.set_result(1)
        failed.set_exception(KeyError("x"))
        failed.exception()
        gone.cancel()
        return [repr(it) for it in (pending, done, failed, gone)]

    assert [
        "<Future pending>",
        "<Future finished result=1>",
        "<Future finished exception=KeyError('x')>",
        "<Future cancelled>",
    ] == run(main())


def test_another_thread_sets_the_result(run: Run) -> None:
    """call_soon_threadsafe settles a future from a thread; run_coroutine_threadsafe answers one."""

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        future = future_of()
        outcome: concurrent.futures.Future[int] = concurrent.futures.Future()

        async def body() -> int:
            await asyncio.sleep(0)
            return 2

        def other() -> None:
            loop.call_soon_threadsafe(future.set_result, 1)
            outcome.set_result(asyncio.run_coroutine_threadsafe(body(), loop).result(10))

        thread = threading.Thread(target=other)
        thread.start()
        got = await future, await asyncio.wrap_future(outcome)
        thread.join()
        return got

    assert (1, 2) == run(main())


@native_only
def test_another_thread_sets_the_result_directly(run: Run) -> None:
    """A native future wakes its loop itself, whichever thread settles it."""

    async def main() -> int:
        future = future_of()
        thread = threading.Thread(target=future.set_result, args=(3,))
        thread.start()
        result: int = await future
        thread.join()
        return result

    assert 3 == run(main())


def test_after_its_loop_was_closed(loop: asyncio.AbstractEventLoop) -> None:
    """A future without callbacks can be settled; callbacks and tasks are refused."""
    waited, plain = loop.create_future(), loop.create_future()
    waited.add_done_callback(print)
    loop.close()
    plain.set_result(1)
    assert 1 == plain.result()
    with pytest.raises(RuntimeError, match="closed"):
        waited.set_result(1)
    with pytest.raises(RuntimeError, match="closed"):
        plain.add_done_callback(print)
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="closed"):
        loop.create_task(coroutine)
    coroutine.close()


@native_only
def test_a_derived_class_is_asked(run: Run) -> None:
    """Methods that a subclass of the native future overrides are called."""
    from threadlets import _core

    class Mine(_core.Future):
        n_added = 0

        def add_done_callback(self, *args: Any, **kwargs: Any) -> None:
            type(self).n_added += 1
            super().add_done_callback(*args, **kwargs)

    async def main() -> tuple[int, str]:
        failures = note_failures()
        mine: Any = Mine(loop=asyncio.get_running_loop())
        asyncio.get_running_loop().call_soon(mine.set_result, 1)
        assert 1 == await mine
        assert asyncio.isfuture(mine)
        assert isinstance(mine, Mine)
        failed: Any = Mine(loop=asyncio.get_running_loop())
        failed.set_exception(KeyError("x"))
        shown = repr(failed)
        del failed
        collect()
        assert ["Mine exception was never retrieved"] == [it["message"] for it in failures]
        return Mine.n_added, shown

    assert (1, "<Mine finished exception=KeyError('x')>") == run(main())
