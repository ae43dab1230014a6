"""`asyncio.Task` may be replaced at any time, as debuggers, tests and nested loops do."""

from __future__ import annotations

import asyncio
import asyncio.tasks
import gc
from typing import Any

import pytest

from .harness import Run, native_only, ticks

PythonTask: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]
PythonFuture: Any = asyncio.futures._PyFuture  # type: ignore[attr-defined]


class Derived(asyncio.Task):  # type: ignore[type-arg]
    """A subclass, as a debugger makes one."""


class Stranger:
    """A class that is unrelated to asyncio's and does not look like it."""

    __slots__ = ("value",)


@native_only
@pytest.mark.parametrize("task_class", [PythonTask, Derived, Stranger])
@pytest.mark.parametrize("future_class", [asyncio.Future, PythonFuture])
@pytest.mark.parametrize("debug", [False, True])
def test_tasks_are_found_and_pass_for_both_classes(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    task_class: Any,
    future_class: Any,
    debug: bool,
) -> None:
    """Tasks made before and after the replacement are instances of the old and the new class."""
    before = asyncio.Task, asyncio.Future
    ended = []

    async def background() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(True)

    async def main() -> None:
        asyncio.get_running_loop().set_debug(debug)
        tasks = {asyncio.ensure_future(background())}
        await asyncio.sleep(0)
        monkeypatch.setattr(asyncio, "Task", task_class)
        monkeypatch.setattr(asyncio.tasks, "Task", task_class)
        monkeypatch.setattr(asyncio, "Future", future_class)
        tasks |= {asyncio.get_running_loop().create_task(background())}
        await ticks(2)
        me = asyncio.current_task()
        assert me is not None
        assert asyncio.all_tasks() == {*tasks, me}
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        await asyncio.gather(future, asyncio.sleep(0))
        for task in (*tasks, me):
            assert isinstance(task, before[0])
            assert isinstance(task, before[1])
            assert isinstance(task, task_class) or task_class is Stranger
            assert isinstance(task, future_class)
            assert isinstance(task, asyncio.Future)
            assert asyncio.isfuture(task)
            assert repr(task).startswith("<Task")
        assert isinstance(future, (before[1], future_class))
        assert asyncio.isfuture(future)

    run(main())
    gc.collect()
    assert [True, True] == ended


@native_only
def test_classes_are_what_they_were_when_all_is_put_back(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the class is put back, a task is an instance of asyncio's class only."""

    async def main() -> None:
        task: Any = asyncio.current_task()
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "Task", PythonTask)
            assert issubclass(task.__class__, PythonTask)
        assert task.__class__ is asyncio.Task
        assert not isinstance(task, PythonTask)

    run(main())
