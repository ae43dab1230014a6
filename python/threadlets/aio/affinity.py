"""Debug mode's watch over objects that belong to one thread: `threading.local`, sqlite3 connections.

While a threadlet is blocked, the loop's other requests run on another thread. What they expect of
the thread they ran on before stays behind: this names it.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
import warnings
import weakref
from typing import Any

from threadlets import _core

_LOCAL = "thread.local."
# Whose own objects are none of the user's business.
_INTERNAL = frozenset({"asyncio", "logging", "threading", "threadlets"})


class Affinity:
    """What requests of one loop have left on which thread."""

    def __init__(self) -> None:
        _watch_connections()
        #: By thread: where its `threading.local` objects are listed, and what each of them held
        #: before requests ran there.
        self._threads: dict[int, tuple[dict[Any, Any], dict[str, dict[str, int]]]] = {}
        self._warned: set[Any] = set()

    def thread_joins(self) -> None:
        """Requests will run on this thread: what it has now is none of theirs."""
        listed: dict[Any, Any] = _core.thread_dict() or {}
        before = {key: _identities(values) for key, _, values in _locals_in(listed)}
        self._threads[threading.get_ident()] = (listed, before)

    def role_moved(self, blocked: int, dispatcher: int) -> None:
        """Warn of what stays behind with the thread that is blocked."""
        where = f"{_thread(blocked)}, where a threadlet is blocked"
        elsewhere = f"other requests of the loop now run on {_thread(dispatcher)}"
        listed, before = self._threads.get(blocked, ({}, {}))
        for key, found, values in _locals_in(listed):
            name = _name_of(found)
            if name and self._is_news(key, _identities(values) != before.get(key, {})):
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

    def _is_news(self, thing: Any, is_left_behind: bool) -> bool:
        if not is_left_behind or thing in self._warned:
            return False
        self._warned.add(thing)
        return True


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _thread(ident: int) -> str:
    name = next((it.name for it in threading.enumerate() if it.ident == ident), "?")
    return f"thread {name!r}"


# -- threading.local -------------------------------------------------------------------------------

_known_locals: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def _locals_in(listed: dict[Any, Any]) -> list[tuple[str, Any, dict[str, Any]]]:
    """Find the `threading.local` objects of a thread: key, object, values on that thread."""
    entries = {key: entry for key, entry in listed.items() if str(key).startswith(_LOCAL)}
    if not all(key in _known_locals for key in entries):
        for found in gc.get_objects():
            if isinstance(found, threading.local):
                _known_locals[f"{_LOCAL}{id(found):#x}"] = found
    found_locals = []
    for key, entry in entries.items():
        found = _known_locals.get(key)
        # The object keeps the values of each thread under a reference to that thread's entry.
        for table in gc.get_referents(found) if found is not None else ():
            if isinstance(table, dict):
                for reference, values in table.items():
                    if isinstance(reference, weakref.ref) and reference() is entry:
                        found_locals.append((key, found, values))
    return found_locals


def _identities(values: dict[str, Any]) -> dict[str, int]:
    return {name: id(value) for name, value in values.items()}


def _name_of(found: Any) -> str | None:
    """Name a `threading.local` object; None for one of the runtime's own."""
    if type(found).__module__.partition(".")[0] in _INTERNAL:
        return None
    for module_name, module in list(sys.modules.items()):
        for name, value in list(vars(module).items()):
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
