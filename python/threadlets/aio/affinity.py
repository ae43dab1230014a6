"""Debug mode's watch over objects that belong to one thread: `threading.local`, sqlite3 connections.

While a threadlet is blocked, the loop's other requests run on another thread. What they expect of
the thread they ran on before stays behind: this names it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from threadlets import _core

if TYPE_CHECKING:
    import sqlite3

_LOCAL = "thread.local."


class Affinity:
    """What requests of one loop have left on which thread."""

    def __init__(self) -> None:
        _watch_connections()
        #: By thread: where its `threading.local` objects keep their values, and those known.
        self._locals: dict[int, tuple[dict[Any, Any], set[Any]]] = {}
        #: By key of a `threading.local` object: who set it, on which thread.
        self._owners: dict[Any, tuple[str, int]] = {}
        self._warned: set[Any] = set()

    def thread_joins(self) -> None:
        """Requests will run on this thread: what it has now is none of theirs."""
        values: dict[Any, Any] = _core.thread_dict() or {}
        self._locals[threading.get_ident()] = (values, set(values))

    def request_ran(self, description: str) -> None:
        """Note what a request has left on this thread."""
        thread = threading.get_ident()
        values, known = self._locals.get(thread, ({}, set()))
        if len(values) != len(known):
            for key in values.keys() - known:
                self._owners.setdefault(key, (description, thread))
            known |= values.keys()

    def role_moved(self, blocked: int, dispatcher: int) -> None:
        """Warn of what stays behind with the thread that is blocked."""
        values, known = self._locals.get(blocked, ({}, set()))
        for key in values.keys() - known:
            # The request that is blocked has set it, and has not come to its end.
            self._owners.setdefault(key, ("a request whose threadlet is blocked", blocked))
        known |= values.keys()
        for key, (description, thread) in self._owners.items():
            if thread == blocked and key not in self._warned and str(key).startswith(_LOCAL):
                self._warned.add(key)
                self._warn_of_local(key, description, blocked, dispatcher)
        for connection, (where, thread) in list(_connections.items()):
            if thread == blocked and _is_bound(connection) and id(connection) not in self._warned:
                self._warned.add(id(connection))
                _warn(
                    f"{connection!r}, made at {where}, can be used on {_thread(blocked)} only, where "
                    f"a threadlet is blocked; other requests of the loop now run on "
                    f"{_thread(dispatcher)}; open it with check_same_thread=False, and use it in "
                    "threadlets of a Pool(limit=1)"
                )

    def _warn_of_local(self, key: Any, description: str, blocked: int, dispatcher: int) -> None:
        name = _name_of_local(str(key))
        if name is not None:
            _warn(
                f"{name}, set by {description}, has its values on {_thread(blocked)}, where a "
                f"threadlet is blocked; other requests of the loop now run on {_thread(dispatcher)} "
                "and do not see them; use contextvars.ContextVar instead of threading.local"
            )


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _thread(ident: int) -> str:
    name = next((it.name for it in threading.enumerate() if it.ident == ident), "?")
    return f"thread {name!r}"


def _name_of_local(key: str) -> str | None:
    """Name the object with this key; None for one of the standard library's own."""
    address = int(key.removeprefix(_LOCAL), 16)
    for found in gc.get_objects():
        if id(found) == address:
            break
    else:
        return None
    for module_name, module in list(sys.modules.items()):
        for name, value in list(vars(module).items()):
            if value is found:
                is_own = module_name.partition(".")[0] in sys.stdlib_module_names
                return None if is_own and module_name != "__main__" else f"{module_name}.{name}"
    own_type = type(found).__module__.partition(".")[0]
    return None if own_type in ("asyncio", "logging") else repr(found)


# -- sqlite3 ---------------------------------------------------------------------------------------

_connections: weakref.WeakKeyDictionary[sqlite3.Connection, tuple[str, int]] = (
    weakref.WeakKeyDictionary()
)
_is_watching = False


def _watch_connections() -> None:
    global _is_watching
    if not _is_watching:
        _is_watching = True
        sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event != "sqlite3.connect/handle":
        return
    loop = asyncio._get_running_loop()
    if isinstance(loop, _core.Dispatcher) and loop.get_debug():  # type: ignore[attr-defined]
        frame = sys._getframe(1)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        _connections[args[0]] = (where, threading.get_ident())


def _is_bound(connection: sqlite3.Connection) -> bool:
    """Whether a connection refuses this thread."""
    try:
        connection.cursor().close()
    except Exception as exc:
        return "created in a thread" in str(exc)
    return False
