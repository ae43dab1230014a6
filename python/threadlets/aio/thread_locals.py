"""Debug mode's watch over `threading.local`: who sets a value, and who reads it after a suspension.

A value stays with its thread. A request does not: when it has suspended, others run on the thread and
find what it has set, and it may itself go on on another thread, where nothing was set.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import sys
import threading
import types
import warnings
import weakref
from typing import Any, Literal

from threadlets.aio.affinity import place_of
from threadlets.fp import ledger
from threadlets.scopes.blocked import thread_name

#: Whose own values are none of the user's business.
_INTERNAL = frozenset({"anyio", "asyncio", "logging", "sniffio", "threading", "threadlets"})

_REMEDY = "use contextvars.ContextVar instead of threading.local"


@dataclasses.dataclass(frozen=True)
class _Running:
    """A request that runs; each time that it goes on it is another."""

    number: int
    subject: Any

    @functools.cached_property
    def task(self) -> weakref.ref[asyncio.Task[Any]] | None:
        task = ledger.task_of(self.subject)
        return None if task is None else weakref.ref(task)


@dataclasses.dataclass(frozen=True)
class _Setting:
    """By which request a value was set, and where in the code."""

    number: int
    task: weakref.ref[asyncio.Task[Any]] | None
    where: str

    def is_of(self, running: _Running) -> bool:
        """Whether who runs now set it, before it suspended."""
        return self.task is not None and self.task == running.task


class ThreadLocals:
    """What requests of one loop have set in `threading.local` objects, on which thread."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._running: dict[int, _Running] = {}
        #: By the object's identity: the object, and the settings by thread and name.
        self._used: dict[int, tuple[weakref.ref[Any], dict[tuple[int, str], _Setting]]] = {}
        self._warned: set[Any] = set()

    def request_begins(self, subject: Any) -> None:
        """A request runs on this thread from now on."""
        self._running[threading.get_ident()] = _Running(next(self._numbers), subject)

    def request_ended(self) -> None:
        """It has suspended, or is over."""
        self._running.pop(threading.get_ident(), None)

    def thread_ended(self) -> None:
        """Another thread may have this one's number from now on."""
        ended = threading.get_ident()
        for _, settings in self._used.values():
            for key in [key for key in settings if key[0] == ended]:
                del settings[key]

    def used(
        self, how: Literal["read", "set", "deleted"], found: Any, name: str, frame: types.FrameType
    ) -> None:
        """Code of a request, in `frame`, uses a value of a `threading.local` on this thread."""
        thread = threading.get_ident()
        running = self._running.get(thread)
        if running is None or name.startswith("__") or _is_internal(frame):
            return
        if how == "read":
            self._was_read(thread, running, found, name, frame)
        elif how == "deleted":
            self._settings(found).pop((thread, name), None)
        elif not _initialises(frame, found):
            setting = _Setting(running.number, running.task, place_of(frame))
            self._settings(found)[thread, name] = setting

    def _was_read(
        self, thread: int, running: _Running, found: Any, name: str, frame: types.FrameType
    ) -> None:
        if id(found) not in self._used:
            return
        settings = self._settings(found)
        setting = settings.get((thread, name))
        if setting is not None:
            if setting.number == running.number:
                return
            if setting.is_of(running):
                reason = "before the task suspended; others have run on the thread since"
            else:
                reason = "in another request, which is on the same thread by chance"
        else:
            mine = (it for key, it in settings.items() if key[1] == name and it.is_of(running))
            setting = next(mine, None)
            if setting is None:
                return
            reason = "before the task suspended, on another thread, where the value has stayed"
        what = _name_of(found)
        if what is None or not self._is_news((id(found), name, place_of(frame))):
            return
        warnings.warn(
            f"{place_of(frame)} reads {what}.{name}, which was set by {setting.where}, {reason}; "
            f"{_REMEDY}",
            RuntimeWarning,
            # Whoever reads it.
            stacklevel=4,
        )

    def role_moved(self, blocked: int, dispatcher: int) -> None:
        """Warn of values that stay behind with the thread that is blocked."""
        for key, (reference, settings) in list(self._used.items()):
            left = [setting for (thread, _), setting in settings.items() if thread == blocked]
            found = reference()
            what = _name_of(found) if left and found is not None else None
            if what and self._is_news(key):
                warnings.warn(
                    f"{what} has values that were set by requests on thread "
                    f"{thread_name(blocked)!r}, where a threadlet is blocked, the last by "
                    f"{left[-1].where}; other requests of the loop now run on thread "
                    f"{thread_name(dispatcher)!r} and do not see them; {_REMEDY}",
                    RuntimeWarning,
                    stacklevel=4,
                )

    def _settings(self, found: Any) -> dict[tuple[int, str], _Setting]:
        known = self._used.get(id(found))
        if known is None:
            key, used = id(found), self._used
            known = (weakref.ref(found, lambda _: used.pop(key, None)), {})
            used[key] = known
        return known[1]

    def _is_news(self, thing: Any) -> bool:
        if thing in self._warned:
            return False
        self._warned.add(thing)
        return True


def _is_internal(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _INTERNAL


def _initialises(frame: types.FrameType, found: Any) -> bool:
    """Whether the object sets values itself, as it does once for each thread."""
    is_init = frame.f_code.co_name == "__init__"
    return is_init and any(it is found for it in frame.f_locals.values())


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
