"""Debug mode's watch over what belongs to one thread: `threading.local`, sqlite3, thread identities.

While a threadlet is blocked, the loop's other requests run on another thread. What they expect of
the thread they ran on before stays behind: this names it.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
import time
import types
import warnings
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from threadlets import _core
from threadlets.scopes.blocked import thread_name

# Whose own objects are none of the user's business.
_INTERNAL = frozenset({"anyio", "asyncio", "logging", "sniffio", "threading", "threadlets"})


class Affinity:
    """What requests of one loop have left on which thread."""

    def __init__(self) -> None:
        _watch_connections()
        #: By thread: what stands for it in the tables of `threading.local` objects, and what each
        #: object (by its identity) held before requests ran there.
        self._threads: dict[int, tuple[Any, dict[int, dict[str, int]]]] = {}
        self._warned: set[Any] = set()

    def thread_joins(self) -> None:
        """Requests will run on this thread: what it has now is none of theirs."""
        thread = _this_thread()
        before = {id(it): _identities(_values_on(thread, it)) for it in _all_locals()}
        self._threads[threading.get_ident()] = (thread, before)

    def role_moved(self, blocked: int, dispatcher: int, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Warn of what stays behind with the thread that is blocked."""
        where = f"thread {thread_name(blocked)!r}, where a threadlet is blocked"
        elsewhere = f"other requests of the loop now run on thread {thread_name(dispatcher)!r}"
        thread, before = self._threads.get(blocked, ({}, {}))
        for found in _all_locals():
            is_changed = _identities(_values_on(thread, found)) != before.get(id(found), {})
            name = _name_of(found) if is_changed else None
            if name and self._is_news(id(found), is_changed):
                _warn(
                    f"{name} has values that were set by requests on {where}; {elsewhere} and do "
                    "not see them; use contextvars.ContextVar instead of threading.local"
                )
        for connection, made_at in _connections_of(blocked):
            if self._is_news(id(connection), _is_bound(connection)):
                _warn(
                    f"{connection!r}, made at {made_at}, can be used on one thread only, {where}; "
                    f"{elsewhere}; open it with check_same_thread=False, and use it in threadlets "
                    "of a Pool(limit=1)"
                )

        for task in tasks:
            for name, frame in _identities_kept(task, blocked):
                where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                if self._is_news((where, name), True):
                    _warn(
                        f"{frame.f_code.co_qualname} ({where}) keeps the identity of thread "
                        f"{thread_name(blocked)!r} in {name!r}, where a threadlet is blocked; "
                        f"{elsewhere}, this one among them; ask again after each await"
                    )

    def _is_news(self, thing: Any, is_left_behind: bool) -> bool:
        if not is_left_behind or thing in self._warned:
            return False
        self._warned.add(thing)
        return True


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


# -- thread identities ----------------------------------------------------------------------------


def _identities_kept(task: asyncio.Task[Any], thread: int) -> Iterator[tuple[str, types.FrameType]]:
    """Find local variables of suspended coroutines that say which thread they ran on."""
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        # One that runs now is on the blocked thread itself, or on this one.
        if frame is not None and getattr(coroutine, "cr_suspended", False):
            for name, value in frame.f_locals.items():
                is_thread = isinstance(value, threading.Thread) and value.ident == thread
                if is_thread or (type(value) is int and value == thread):
                    yield name, frame
        coroutine = getattr(coroutine, "cr_await", None)


# -- threading.local -------------------------------------------------------------------------------

_REFRESH_S = 1.0
_known_locals: weakref.WeakSet[threading.local] = weakref.WeakSet()
_refreshed_at = 0.0


def _all_locals() -> list[threading.local]:
    """Find the process's `threading.local` objects; those of the last second may be missing."""
    global _refreshed_at
    now = time.monotonic()
    if now - _refreshed_at >= _REFRESH_S:
        _refreshed_at = now
        for found in gc.get_objects():
            if isinstance(found, threading.local):
                _known_locals.add(found)
    return list(_known_locals)


# An object keeps its values in a table, by something that stands for the thread: an object of the
# thread's since CPython 3.13, before that a weak reference to an object of thread and object.
if sys.version_info >= (3, 13):

    def _this_thread() -> Any:
        """Return what stands for this thread in the tables of `threading.local` objects."""
        probe = threading.local()
        probe.value = None
        return next(iter(_tables_of(probe)[0]))

    def _values_on(thread: Any, found: threading.local) -> dict[str, Any]:
        return next((table[thread] for table in _tables_of(found) if thread in table), {})

else:

    def _this_thread() -> Any:
        """Return the list of this thread's `threading.local` objects."""
        return _core.thread_dict() or {}

    def _values_on(thread: Any, found: threading.local) -> dict[str, Any]:
        entry = thread.get(f"thread.local.{id(found):#x}")
        entries = (item for table in _tables_of(found) for item in table.items())
        return next((values for reference, values in entries if reference() is entry), {})


def _tables_of(found: threading.local) -> list[dict[Any, dict[str, Any]]]:
    return [table for table in gc.get_referents(found) if isinstance(table, dict) and table]


def _identities(values: dict[str, Any]) -> dict[str, int]:
    return {name: id(value) for name, value in values.items()}


def _name_of(found: Any) -> str | None:
    """Name a `threading.local` object; None for one of the runtime's own."""
    if type(found).__module__.partition(".")[0] in _INTERNAL:
        return None
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is found:
                is_internal = module_name.partition(".")[0] in _INTERNAL
                return None if is_internal else f"{module_name}.{name}"
    return repr(found)


# -- sqlite3 ---------------------------------------------------------------------------------------

#: Where each connection was made that requests have made, and on which thread; by its identity,
#: because it cannot be referred to weakly.
_made_at: dict[int, tuple[str, int]] = {}
_is_watching = False


def _watch_connections() -> None:
    global _is_watching
    if not _is_watching:
        _is_watching = True
        sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event != "sqlite3.connect/handle":
        return
    loop: Any = asyncio._get_running_loop()
    if isinstance(loop, _core.Dispatcher) and loop._debug:
        frame = sys._getframe(1)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        _made_at[id(args[0])] = (where, threading.get_ident())
    else:
        _made_at.pop(id(args[0]), None)


def _connections_of(thread: int) -> list[tuple[sqlite3.Connection, str]]:
    if not any(made_by == thread for _, made_by in _made_at.values()):
        return []
    alive = [found for found in gc.get_objects() if isinstance(found, sqlite3.Connection)]
    for gone in _made_at.keys() - {id(connection) for connection in alive}:
        del _made_at[gone]
    found = ((connection, _made_at.get(id(connection), ("", 0))) for connection in alive)
    return [(connection, where) for connection, (where, made_by) in found if made_by == thread]


def _is_bound(connection: sqlite3.Connection) -> bool:
    """Whether a connection refuses this thread."""
    try:
        connection.cursor().close()
    except Exception as exc:
        return "created in a thread" in str(exc)
    return False
