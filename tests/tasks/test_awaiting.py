"""Awaiting a future gives each awaiting task the same outcome; wrong uses raise."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from .harness import Raw, Run, native_only, ticks


def future_of() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def test_many_tasks_await_one_future(run: Run) -> None:
    """All tasks get the result, in the order in which they began to wait."""

    async def main() -> list[tuple[int, str]]:
        future = future_of()
        got: list[tuple[int, str]] = []

        async def body(number: int) -> None:
            got.append((number, await future))

        tasks = [asyncio.create_task(body(number)) for number in range(100)]
        await ticks(1)
        future.set_result("r")
        await asyncio.wait(tasks)
        return got

    assert run(main()) == [(number, "r") for number in range(100)]


def test_a_done_future_is_awaited_again_and_again(run: Run) -> None:
    """Each await of a done future gives the same result at once."""

    async def main() -> list[Any]:
        future = future_of()
        future.set_result((1, 2))
        return [await future, await future, await future]

    assert [(1, 2)] * 3 == run(main())


@pytest.mark.parametrize(
    "result", [(), (1,), (1, 2), None, StopIteration(3), KeyError("x"), BaseException], ids=repr
)
def test_any_result_comes_through(run: Run, result: Any) -> None:
    """A tuple or an exception is a result like any other."""

    async def main() -> list[bool]:
        done, later = future_of(), future_of()
        done.set_result(result)
        asyncio.get_running_loop().call_soon(later.set_result, result)

        async def body() -> Any:
            return result

        class Awaitable:
            def __await__(self) -> Any:
                return (yield from done)

        task = asyncio.create_task(body())
        got = [await done, await later, await task, await Awaitable(), done.result()]
        return [it is result for it in got]

    assert [True] * 5 == run(main())


def test_its_traceback_does_not_grow(run: Run) -> None:
    """The traceback of an exception that is awaited often has the frames of one await."""

    async def main() -> list[int]:
        future = future_of()
        future.set_exception(KeyError("x"))
        lengths = []
        for _ in range(5):
            try:
                await future
            except KeyError as error:
                lengths.append(len(traceback.extract_tb(error.__traceback__)))
        return lengths

    assert [1] * 5 == run(main())


@native_only
def test_a_tasks_traceback_does_not_grow(run: Run) -> None:
    """A task's exception keeps its coroutine's frames; asyncio's loses them at the first await."""

    async def main() -> int:
        async def fails() -> None:
            await asyncio.sleep(0)
            raise KeyError("x")

        task = asyncio.create_task(fails())
        lengths = set()
        for _ in range(5):
            try:
                await task
            except KeyError as error:
                lengths.add(len(traceback.extract_tb(error.__traceback__)))
        return len(lengths)

    assert 1 == run(main())


def test_awaited_without_a_task(run: Run) -> None:
    """A coroutine driven by hand yields the future once, and raises if it is resumed too early."""

    async def main() -> None:
        future = future_of()

        async def body() -> None:
            await future

        for make in (body, lambda: Raw(body().__await__())):
            future._asyncio_future_blocking = False
            coroutine: Any = make()
            assert coroutine.send(None) is future
            with pytest.raises(RuntimeError, match="await wasn't used with future"):
                coroutine.send(None)

    run(main())


def test_driven_by_hand_to_its_end(run: Run) -> None:
    """The iterator of an await has working `send`, `throw` and `close`."""

    async def main() -> None:
        future = future_of()
        iterator: Any = future.__await__()
        assert iterator.send(None) is future
        future.set_result(5)
        with pytest.raises(StopIteration) as caught:
            iterator.send(None)
        assert 5 == caught.value.value
        with pytest.raises(StopIteration):
            next(iterator)
        with pytest.raises(KeyError):
            future.__await__().throw(KeyError("x"))  # type: ignore[attr-defined]
        future.__await__().close()  # type: ignore[attr-defined]

    run(main())


def test_a_future_of_another_loop(run: Run) -> None:
    """Awaiting a future of another loop raises RuntimeError in the coroutine."""

    async def main() -> str:
        other = asyncio.SelectorEventLoop()
        try:
            with pytest.raises(RuntimeError, match="attached to a different loop") as caught:
                await other.create_future()
        finally:
            other.close()
        return type(caught.value).__name__

    assert "RuntimeError" == run(main())


@pytest.mark.parametrize(
    "garbage", [1, "x", object(), [], {}, (lambda: (yield))()], ids=lambda it: type(it).__name__
)
def test_yielded_garbage_is_refused(run: Run, garbage: Any) -> None:
    """A coroutine that yields something else gets RuntimeError, and may go on after it."""

    async def main() -> str:
        class Garbage:
            def __await__(self) -> Any:
                yield garbage

        async def body() -> str:
            with pytest.raises(RuntimeError, match="yield"):
                await Garbage()
            await asyncio.sleep(0)
            return "went on"

        return await asyncio.create_task(body())

    assert "went on" == run(main())


def test_a_yielded_future_is_no_await(run: Run) -> None:
    """A future that is yielded rather than awaited is refused."""

    async def main() -> None:
        future = future_of()

        class Bare:
            def __await__(self) -> Any:
                yield future

        with pytest.raises(RuntimeError, match="yield was used instead of yield from"):
            await asyncio.create_task(Raw(Bare().__await__()))  # type: ignore[arg-type]

    run(main())
