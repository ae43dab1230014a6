"""Debug mode's check for what belongs to one thread: sqlite3 connections, thread identities.

While a threadlet is blocked, the loop's other requests run on another thread. What they had bound
to their previous thread stays behind there: this module names it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from threadlets import _core
from threadlets._debug_mode.reports import Report
from threadlets._introspection import describe_frame, thread_name

if TYPE_CHECKING:
    import sqlite3


class Affinity:
    """Finds and reports what the requests of one loop have bound to a thread."""

    def __init__(self, report: Report) -> None:
        self._report = report
        _watch_connections()
        self._warned: set[Any] = set()

    def role_moved(self, blocked: int, dispatcher: int, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Warn of what stays behind on the blocked thread."""
        where = f"thread {thread_name(blocked)!r}, where a threadlet is blocked"
        elsewhere = f"other requests of the loop now run on thread {thread_name(dispatcher)!r}"
        for connection, made_at in _connections_of(blocked):
            if self._is_first_report(id(connection), _is_bound(connection)):
                self._report(
                    f"{connection!r}, made at {made_at}, can be used only on {where}; "
                    f"{elsewhere}; open it with check_same_thread=False, and use it in threadlets "
                    "of a Pool(limit=1)",
                    None,
                )

        for task in tasks:
            for name, frame in _identities_kept(task, blocked):
                place = describe_frame(frame)
                if self._is_first_report((place, name), True):
                    self._report(
                        f"{place} keeps in {name!r} the identity of {where}; "
                        f"{elsewhere}, this one among them; ask again after each await",
                        None,
                    )

    def _is_first_report(self, thing: Any, is_left_behind: bool) -> bool:
        if not is_left_behind or thing in self._warned:
            return False
        self._warned.add(thing)
        return True


def _is_instance(found: Any, what: type) -> bool:
    """Test the type alone: `isinstance` also reads `__class__`, which makes a lazy proxy load."""
    return issubclass(type(found), what)


# -- thread identities ----------------------------------------------------------------------------


def _identities_kept(task: asyncio.Task[Any], thread: int) -> Iterator[tuple[str, types.FrameType]]:
    """Yield the local variables of a suspended task that identify `thread`, with their frames."""
    coroutine: Any = task.get_coro()
    # A running coroutine is skipped, with all that it awaits: it runs on the blocked thread or on
    # this one, and CPython 3.12 crashes when it is asked for the `cr_await` of a running coroutine.
    while getattr(coroutine, "cr_suspended", False):
        frame = coroutine.cr_frame
        for name, value in frame.f_locals.items():
            is_thread = _is_instance(value, threading.Thread) and value.ident == thread
            if is_thread or (type(value) is int and value == thread):
                yield name, frame
        coroutine = coroutine.cr_await


# -- sqlite3 ---------------------------------------------------------------------------------------

#: Where and on which thread requests have made each connection, by `id(connection)`: a connection
#: does not support weak references.
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
    if isinstance(loop, _core.Dispatcher) and loop.get_debug():
        frame = sys._getframe(1)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        _made_at[id(args[0])] = (where, threading.get_ident())
    else:
        _made_at.pop(id(args[0]), None)


def _connections_of(thread: int) -> list[tuple[sqlite3.Connection, str]]:
    if not any(made_by == thread for _, made_by in _made_at.values()):
        return []
    # Imported only here, since not every program needs it; where connections exist, it is loaded.
    import sqlite3

    alive = [found for found in gc.get_objects() if _is_instance(found, sqlite3.Connection)]
    for gone in _made_at.keys() - {id(connection) for connection in alive}:
        del _made_at[gone]
    found = ((connection, _made_at.get(id(connection), ("", 0))) for connection in alive)
    return [(connection, where) for connection, (where, made_by) in found if made_by == thread]


def _is_bound(connection: sqlite3.Connection) -> bool:
    """Whether a connection refuses to be used on this thread."""
    try:
        connection.cursor().close()
    except Exception as exc:
        return "created in a thread" in str(exc)
    return False
