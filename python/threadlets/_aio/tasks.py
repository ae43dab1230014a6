"""Makes `asyncio.all_tasks()` find native tasks, and `asyncio.current_task()` on each thread.

asyncio keeps tasks of other implementations in one `WeakSet`. A native loop knows its own tasks, so
they need not be entered there; iterating over the set yields them, too.

`asyncio.current_task()` is replaced by a function that knows the task of each thread. asyncio's own
knows one task per loop before CPython 3.14; since then it takes the first thread in which the loop
runs, and a loop may run in several.
"""

from __future__ import annotations

import asyncio.tasks
import sys
import weakref
from collections.abc import Iterator
from typing import Any

from threadlets import _core
from threadlets._core import Dispatcher, Task, current_task

_loops: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


class _AllTasks(weakref.WeakSet["asyncio.Task[Any]"]):
    """A set in which asyncio registers tasks; iterating over it also yields native tasks."""

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        yield from super().__iter__()
        for loop in loops():
            for request in loop._requests():
                # Tested by the native class, since programs may replace `asyncio.Task`.
                if issubclass(type(request), Task):
                    yield request


def register_loop(loop: Dispatcher) -> None:
    """Have `asyncio.all_tasks` find the tasks of a loop for as long as it exists."""
    _loops.add(loop)


def loops() -> list[Dispatcher]:
    """Return the loops that exist, including closed ones."""
    return list(_loops)


def _registries() -> Iterator[object]:
    """Yield the sets in which asyncio registers foreign tasks: one of its C code, one in Python."""
    if sys.version_info < (3, 12):
        yield asyncio.tasks._all_tasks
        return
    yield asyncio.tasks._scheduled_tasks
    if sys.version_info < (3, 14):
        return

    class Probe:
        """An object to register as a task."""

    # The set has no name; the callback that removes a member when it is gone refers to it.
    probe = Probe()
    asyncio.tasks._register_task(probe)
    try:
        (reference,) = weakref.getweakrefs(probe)
        yield reference.__callback__.__defaults__[0]()
    finally:
        asyncio.tasks._unregister_task(probe)


def _extend_registries() -> None:
    for tasks in _registries():
        # Its class is changed, since asyncio's C code and others refer to the object.
        if type(tasks) is weakref.WeakSet:
            tasks.__class__ = _AllTasks


_extend_registries()


asyncio.current_task = asyncio.tasks.current_task = current_task
if sys.version_info >= (3, 14):
    # The name under which asyncio keeps its C implementation.
    asyncio.tasks._c_current_task = current_task


def _record_awaiters() -> None:
    """Have task groups and `gather` record their awaiters in native futures, too."""
    if sys.version_info < (3, 14):
        return
    for name in ("future_add_to_awaited_by", "future_discard_from_awaited_by"):
        ours = getattr(_core, name)
        setattr(asyncio, name, ours)
        setattr(asyncio.futures, name, ours)
        # The name under which asyncio keeps its C implementation.
        setattr(asyncio.futures, f"_c_{name}", ours)


_record_awaiters()
