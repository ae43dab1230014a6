"""Native tasks among asyncio's: `asyncio.all_tasks()` finds them, and `asyncio.current_task()` on each thread.

asyncio keeps its tasks in one `WeakSet`. A native loop knows its own tasks, so that they need not be
entered there; whoever goes through the set is given them too.

Before CPython 3.14 asyncio knows one current task for each loop. Where a function is called on another thread,
that is the task whose step the loop takes, and not the one that awaits the function.
"""

from __future__ import annotations

import asyncio.tasks
import sys
import weakref
from collections.abc import Iterator
from typing import Any

from threadlets._core import Dispatcher, Task, current_task

_loops: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


class _AllTasks(weakref.WeakSet["asyncio.Task[Any]"]):
    """What asyncio registers its tasks in, and the native loops' tasks besides."""

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        yield from super().__iter__()
        for loop in loops():
            for request in loop._requests():
                # By its own class: `asyncio.Task` may be anything by now.
                if issubclass(type(request), Task):
                    yield request


def show_tasks_of(loop: Dispatcher) -> None:
    """Have `asyncio.all_tasks` find the tasks of a loop for as long as it exists."""
    _loops.add(loop)


def loops() -> list[Dispatcher]:
    """The loops that exist, closed ones among them."""
    return list(_loops)


def _extend_the_set() -> None:
    name = "_scheduled_tasks" if hasattr(asyncio.tasks, "_scheduled_tasks") else "_all_tasks"
    tasks = getattr(asyncio.tasks, name)
    # The object stays: asyncio's C code and others hold it.
    if type(tasks) is weakref.WeakSet:
        tasks.__class__ = _AllTasks


_extend_the_set()


def _tell_threads_apart() -> None:
    if sys.version_info < (3, 14):
        asyncio.current_task = asyncio.tasks.current_task = current_task


_tell_threads_apart()
