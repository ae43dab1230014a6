"""Code that changes a future or a task in use: nothing in use is freed, and the loop goes on.

Most of this code has crashed asyncio's own classes in some CPython, so only ours are tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest
import threadlets
from threadlets import _core

from .harness import native_only

pytestmark = native_only


class Evil:
    """An object that runs code when it is compared, and is equal to nothing."""

    def __init__(self, code: Callable[[Any], object]) -> None:
        self.code = code

    def __eq__(self, other: object) -> bool:
        self.code(other)
        return False

    __hash__ = None  # type: ignore[assignment]


@pytest.fixture
def future(loop: asyncio.AbstractEventLoop) -> Any:
    """Return a future of a loop that does not run."""
    future = loop.create_future()
    assert type(future) is _core.Future
    return future


def churn() -> None:
    """Have freed memory reused."""
    gc.collect()
    for size in range(16, 512, 16):
        [bytearray(size) for _ in range(50)]


def _initialise(future: Any) -> None:
    # Raises from CPython 3.15 on.
    with contextlib.suppress(RuntimeError):
        future.__init__(loop=future.get_loop())


@pytest.mark.parametrize("n_callbacks", [1, 2, 64])
@pytest.mark.parametrize(
    "harm",
    [
        lambda future, other: future.remove_done_callback(other),
        lambda future, other: future.remove_done_callback(id),
        lambda future, other: [future.add_done_callback(id) for _ in range(10)],
        lambda future, other: future.set_result(None) if not future.done() else None,
        lambda future, other: future.cancel(),
        lambda future, other: _initialise(future),
    ],
    ids=["removes it", "removes others", "adds", "sets the result", "cancels", "initialises"],
)
def test_comparing_callbacks_may_change_them(
    future: Any, n_callbacks: int, harm: Callable[[Any, Any], object]
) -> None:
    """The comparisons of `remove_done_callback` may change the list of callbacks."""
    for _ in range(n_callbacks):
        future.add_done_callback(lambda _: None)
        future.add_done_callback(id)

    def code(other: Any) -> None:
        harm(future, other)
        del other
        churn()

    future.remove_done_callback(Evil(code))
    churn()
    with contextlib.suppress(asyncio.InvalidStateError):
        future.set_result(None)
    future.get_loop().run_until_complete(asyncio.sleep(0))


def test_equal_callback_may_remove_itself(future: Any) -> None:
    """A callback may be removed in the middle of its own comparison."""

    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        def __call__(self, future: Any) -> None: ...

    class Removes(Equal):
        def __eq__(self, other: object) -> Any:
            future.remove_done_callback(None)
            churn()
            return NotImplemented

    future.add_done_callback(Equal())
    future.remove_done_callback(Removes())


def test_callbacks_may_change_the_others(loop: asyncio.AbstractEventLoop, future: Any) -> None:
    """Callbacks that are already scheduled are called once each, even if one of them is removed."""
    called: list[str] = []

    def second(_: Any) -> None:
        called.append("second")

    def first(_: Any) -> None:
        called.append("first")
        assert 0 == future.remove_done_callback(second)
        future.add_done_callback(lambda _: called.append("late"))
        future.__init__(loop=loop)

    future.add_done_callback(first)
    future.add_done_callback(second)
    future.set_result(None)
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    assert ["first", "second", "late"] == called


@pytest.mark.parametrize("when", ["looked up", "called"])
def test_call_soon_may_change_the_callbacks(kind: str, when: str) -> None:
    """A subclass's `call_soon` may remove callbacks while they are being scheduled."""
    called: list[Any] = []

    class EvilLoop(threadlets.Loop):
        future: Any = None

        def __getattribute__(self, name: str) -> Any:
            if name == "call_soon" and when == "looked up":
                object.__getattribute__(self, "harm")()
            return object.__getattribute__(self, name)

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            if when == "called":
                self.harm()
            return super().call_soon(callback, *args, context=context)

        def harm(self) -> None:
            future, self.future = self.future, None
            if future is not None:
                for callback in (called.append, id, str):
                    future.remove_done_callback(callback)
                churn()

    loop = EvilLoop()
    try:
        future = _core.Future(loop=loop)
        for callback in (str, called.append, id, id):
            future.add_done_callback(callback)
        loop.future = future
        future.set_result("result")
        loop.run_until_complete(asyncio.sleep(0))
        assert called in ([], [future])
    finally:
        loop.close()


@pytest.mark.parametrize("mark", ["true", 2, [], None, 0.0])
def test_mark_of_an_await_may_be_of_any_type(run: Any, mark: Any) -> None:
    """Only its truth counts: if it is true, the future is said to be awaited already."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future: Any = loop.create_future()
        future._asyncio_future_blocking = mark
        assert future._asyncio_future_blocking is bool(mark)
        loop.call_soon(future.set_result, "result")
        if mark:
            with pytest.raises(RuntimeError, match="await wasn't used"):
                await future
        else:
            assert "result" == await future

    run(main())


def test_future_cannot_be_initialised_anew(loop: asyncio.AbstractEventLoop) -> None:
    """A second `__init__` changes neither the result nor the callbacks."""
    done, waiting = loop.create_future(), loop.create_future()
    done.set_result(result := object())
    called: list[Any] = []
    waiting.add_done_callback(called.append)
    for future in (done, waiting):
        if sys.version_info >= (3, 15):
            with pytest.raises(RuntimeError, match="already initialized"):
                future.__init__(loop=loop)  # type: ignore[misc]
        else:
            _initialise(future)
        churn()
    assert done.result() is result
    waiting.set_result(None)
    loop.run_until_complete(asyncio.sleep(0))
    assert called == [waiting]


@pytest.mark.parametrize("when", ["before its first step", "in a step", "waiting", "done"])
def test_task_cannot_be_initialised_anew(run: Any, when: str) -> None:
    """A second `__init__` is refused, and the task goes on with its own coroutine."""
    steps: list[str] = []

    async def other() -> None:
        steps.append("other")

    def initialise(task: Any) -> None:
        coroutine = other()
        task._log_destroy_pending = False
        with pytest.raises(RuntimeError, match="a task runs one coroutine"):
            task.__init__(coroutine, loop=task.get_loop())
        coroutine.close()
        churn()

    async def works() -> str:
        steps.append("begins")
        if when == "in a step":
            initialise(asyncio.current_task())
        await asyncio.sleep(0.001)
        return "result"

    async def main() -> None:
        task = asyncio.create_task(works())
        if when == "before its first step":
            initialise(task)
        await asyncio.sleep(0)
        if when == "waiting":
            initialise(task)
        assert "result" == await task
        if when == "done":
            initialise(task)
        assert "result" == task.result()
        assert ["begins"] == steps
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_task_cannot_be_initialised_by_its_finalizer(run: Any) -> None:
    """A finalizer that calls `__init__` again is refused."""
    refused: list[type[BaseException]] = []

    class Mine(_core.Task):  # type: ignore[misc, valid-type]
        def __del__(self) -> None:
            self._log_destroy_pending = False
            coroutine = asyncio.sleep(0)
            try:
                self.__init__(coroutine, loop=self.get_loop())  # type: ignore[misc]
            except RuntimeError as error:
                refused.append(type(error))
            coroutine.close()
            super().__del__()

    async def main() -> None:
        task = Mine(asyncio.sleep(0), loop=asyncio.get_running_loop())
        await task
        del task
        churn()
        await asyncio.sleep(0)

    run(main())
    assert refused == [RuntimeError]


def test_task_that_was_not_initialised_has_every_method(loop: asyncio.AbstractEventLoop) -> None:
    """Each answers as that of a task that has not begun, or refuses."""

    async def works() -> None: ...

    answers = {}
    coroutine = works()
    for name in sorted(set(dir(_core.Task)) - set(dir(object))):
        task: Any = _core.Task.__new__(_core.Task, coroutine, loop=loop)
        try:
            attribute = getattr(task, name)
            answers[name] = attribute() if callable(attribute) else attribute
        except Exception as error:
            answers[name] = type(error)
        repr(task), hash(task), task == task
        del task
        churn()
    assert answers["done"] is False
    assert answers["result"] is asyncio.InvalidStateError
    assert answers["get_coro"] is coroutine
    assert isinstance(answers["get_context"], contextvars.Context)
    assert isinstance(answers["get_name"], str)
    coroutine.close()
    loop.run_until_complete(asyncio.sleep(0))


def test_future_that_was_not_initialised_has_every_method(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """The future is pending, and no method crashes."""
    for name in sorted(set(dir(_core.Future)) - set(dir(object))):
        future: Any = _core.Future.__new__(_core.Future, loop=loop)
        with contextlib.suppress(Exception):
            attribute = getattr(future, name)
            if callable(attribute):
                attribute()
        repr(future), hash(future)
        del future
        churn()
    future = _core.Future.__new__(_core.Future, loop=loop)
    with pytest.raises(asyncio.InvalidStateError):
        future.result()
    loop.run_until_complete(asyncio.sleep(0))


def test_results_may_collect_garbage_when_they_go(run: Any) -> None:
    """The result of a future, a task, or an awaited task may collect garbage in its finalizer."""

    class Collects:
        def __del__(self) -> None:
            gc.collect()

    async def works() -> Collects:
        await asyncio.sleep(0)
        return Collects()

    async def main() -> None:
        for _ in range(50):
            asyncio.get_running_loop().create_future().set_result(Collects())
        await asyncio.gather(*(asyncio.create_task(works()) for _ in range(50)))

    run(main())


def test_iterator_of_a_future_may_go_on_after_its_end(loop: asyncio.AbstractEventLoop) -> None:
    """After `throw` and after `close` the iterator is exhausted."""
    for end in (lambda it: it.throw(RuntimeError), lambda it: it.close()):
        iterator: Any = loop.create_future().__await__()
        next(iterator)
        with contextlib.suppress(RuntimeError):
            end(iterator)
        with pytest.raises(StopIteration):
            iterator.send(None)


def test_finalizer_of_a_subclass_replaces_ours(run: Any) -> None:
    """A pending task whose class overrides `__del__` is freed without harm."""

    class Mine(_core.Task):  # type: ignore[misc, valid-type]
        def __del__(self) -> None: ...

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def waits() -> None:
            await loop.create_future()

        task: Any = Mine(waits(), loop=loop)
        task._log_destroy_pending = False
        await asyncio.sleep(0)
        del task
        churn()
        await asyncio.sleep(0)

    run(main())


def test_exception_handler_may_revive_a_task(loop: asyncio.AbstractEventLoop) -> None:
    """The handler may keep the unreferenced pending task that is reported to it."""
    kept: list[Any] = []
    loop.set_exception_handler(lambda _, context: kept.append(context["task"]))

    async def waits() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        del task
        for _ in range(3):
            churn()
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    [task] = kept
    assert "waits" in repr(task)
    assert not task.done()
    kept.clear()
    del task
    churn()


@pytest.mark.parametrize("eager", [False, True])
def test_wrong_context_is_refused(run: Any, eager: bool) -> None:
    """A wrong `context=` is refused at once, and the loop goes on."""

    async def works() -> None: ...

    async def main() -> None:
        options = {"eager_start": True} if eager and sys.version_info >= (3, 14) else {}
        coroutine: Any = works()
        for context in ("no context", object()):
            with pytest.raises(TypeError, match=r"a contextvars\.Context was expected"):
                asyncio.get_running_loop().create_task(coroutine, context=context, **options)
        coroutine.close()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="this Python has no eager tasks")
def test_eager_task_in_a_context_that_is_entered_is_refused(run: Any) -> None:
    """The task is refused at once, and is not listed in `all_tasks`."""

    async def works() -> None: ...

    async def main() -> None:
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        coroutine: Any = works()

        def inside() -> None:
            with pytest.raises(RuntimeError):
                _core.Task(coroutine, loop=loop, context=context, eager_start=True)

        context.run(inside)
        coroutine.close()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())
