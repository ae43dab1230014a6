"""Native tasks among asyncio's: `asyncio.all_tasks()` finds them, and `asyncio.current_task()` on each thread.

asyncio keeps tasks of other makes in one `WeakSet`. A native loop knows its own tasks, so that they need not be
entered there; whoever goes through the set is given them too.

`asyncio.current_task()` is told which task each thread runs. asyncio's own function knows one for each loop, before
CPython 3.14; since then it takes the first thread in which the loop runs, and a loop may run in several.
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


def _registries() -> Iterator[object]:
    """Yield the sets in which asyncio registers tasks of other makes: one that its C code goes through, and one in Python."""
    if sys.version_info < (3, 12):
        yield asyncio.tasks._all_tasks
        return
    yield asyncio.tasks._scheduled_tasks
    if sys.version_info < (3, 14):
        return

    class Probe:
        """Something to register."""

    # No name leads to the set, but what it does when a member is gone refers to it.
    probe = Probe()
    asyncio.tasks._register_task(probe)
    try:
        (reference,) = weakref.getweakrefs(probe)
        yield reference.__callback__.__defaults__[0]()
    finally:
        asyncio.tasks._unregister_task(probe)


def _extend_the_sets() -> None:
    for tasks in _registries():
        # The object stays: asyncio's C code and others hold it.
        if type(tasks) is weakref.WeakSet:
            tasks.__class__ = _AllTasks


_extend_the_sets()


asyncio.current_task = asyncio.tasks.current_task = current_task
if sys.version_info >= (3, 14):
    # Where asyncio keeps the one of its two that it has from C.
    asyncio.tasks._c_current_task = current_task


def _tell_who_awaits() -> None:
    """Have task groups and `gather` tell our futures, too, who awaits them."""
    if sys.version_info < (3, 14):
        return
    for name in ("future_add_to_awaited_by", "future_discard_from_awaited_by"):
        ours = getattr(_core, name)
        setattr(asyncio, name, ours)
        setattr(asyncio.futures, name, ours)
        # Where asyncio keeps the one of its two that it has from C.
        setattr(asyncio.futures, f"_c_{name}", ours)


_tell_who_awaits()
