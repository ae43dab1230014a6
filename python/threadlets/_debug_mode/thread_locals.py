"""Debug mode's check for `threading.local`: code that relies on a value surviving a suspension.

A value belongs to a thread, and a request does not. While a request is suspended, others run on its
thread and find the value that it has set; and it may itself go on on another thread, where nothing
was set.

A value that a request sets and puts back before it suspends is not reported, and neither is one that
code keeps for the thread rather than for the request. Code of the second kind reads before it sets:
a cache makes what is missing, a guard finds that it is not held. It may read the value in any
request, since it copes with a value of another one. Only if the task that has set the value puts it
back after a suspension, the value was the task's after all.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import sys
import threading
import types
import weakref
from typing import Any, Literal

from threadlets._debug_mode.reports import Report
from threadlets._introspection import describe_frame, task_of, thread_name

#: Packages whose own values are not reported.
_INTERNAL = frozenset({"anyio", "asyncio", "logging", "sniffio", "threading", "threadlets"})

_REMEDY = "use contextvars.ContextVar instead of threading.local"

#: A value in a tuple; an empty tuple if there is none.
Found = tuple[()] | tuple[Any]


@dataclasses.dataclass
class _Use:
    """What the running request has done with one value since it was resumed."""

    of: weakref.ref[Any]
    before: Any = None
    after: Any = None
    n_settings: int = 0
    where: str = ""
    #: The value was read before it was set.
    is_managed: bool = False
    readers: set[types.CodeType] = dataclasses.field(default_factory=set)
    setters: set[types.CodeType] = dataclasses.field(default_factory=set)

    def is_at_rest(self) -> bool:
        """Whether the value is at rest: cleared, or that of a guard that is not held."""
        if self.after in (_ABSENT, _identity_of((None,))):
            return True
        return self.n_settings > 1 and isinstance(self.after, tuple) and not self.after[1]


@dataclasses.dataclass
class _Running:
    """A running request; each step of a task counts as another one."""

    number: int
    subject: Any
    #: The request inside which this one runs, if a program runs the loop by hand.
    outer: _Running | None
    uses: dict[tuple[int, str], _Use] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def task(self) -> weakref.ref[asyncio.Task[Any]] | None:
        task = task_of(self.subject)
        return None if task is None else weakref.ref(task)


@dataclasses.dataclass
class _Setting:
    """A value that a request has left set: which request, and where in the code."""

    number: int
    task: weakref.ref[asyncio.Task[Any]] | None
    where: str
    #: The code that reads the value before it sets it; empty: the value was set without reading it.
    managers: frozenset[types.CodeType]
    #: Where such code has read the value in another request.
    read_at: str | None = None

    def is_of(self, running: _Running) -> bool:
        """Whether the running task has set the value, before it suspended."""
        return self.task is not None and self.task == running.task


class ThreadLocals:
    """The values that requests of one loop have set in `threading.local` objects, by thread."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._numbers = itertools.count()
        self._running: dict[int, _Running] = {}
        #: By the object's `id`: a reference to it, and its settings by thread and name.
        self._used: dict[int, tuple[weakref.ref[Any], dict[tuple[int, str], _Setting]]] = {}
        self._warned: set[Any] = set()

    def request_begins(self, subject: Any) -> None:
        """Record that a request starts to run on this thread."""
        thread = threading.get_ident()
        outer = self._running.get(thread)
        self._running[thread] = _Running(next(self._numbers), subject, outer)

    def request_ended(self) -> None:
        """Record that the running request has suspended or ended."""
        thread = threading.get_ident()
        running = self._running.pop(thread, None)
        if running is None:
            return
        if running.outer is not None:
            self._running[thread] = running.outer
        for (_, name), use in running.uses.items():
            found = use.of()
            if use.n_settings and found is not None:
                self._record_setting(thread, running, found, name, use)

    def _record_setting(
        self, thread: int, running: _Running, found: Any, name: str, use: _Use
    ) -> None:
        if use.after == use.before:
            return
        settings = self._settings(found)
        if use.is_at_rest():
            settings.pop((thread, name), None)
            return
        managers = frozenset(use.readers | use.setters) if use.is_managed else frozenset()
        settings[thread, name] = _Setting(running.number, running.task, use.where, managers)

    def thread_ended(self) -> None:
        """Forget this thread: another one may get its number from now on."""
        ended = threading.get_ident()
        self._running.pop(ended, None)
        for _, settings in self._used.values():
            for key in [key for key in settings if key[0] == ended]:
                del settings[key]

    def used(
        self,
        how: Literal["read", "set", "deleted"],
        found: Any,
        name: str,
        before: Found,
        after: Found,
        frame: types.FrameType,
    ) -> None:
        """Record that a request's code, in `frame`, uses a value of `found` on this thread."""
        thread = threading.get_ident()
        running = self._running.get(thread)
        if running is None or name.startswith("__") or _is_internal(frame):
            return
        if how != "read" and _initialises(frame, found):
            return
        use = running.uses.get((id(found), name))
        if use is None or use.of() is not found:
            use = running.uses[id(found), name] = _Use(weakref.ref(found))
        if how == "read":
            use.readers.add(frame.f_code)
            if not use.n_settings:
                self._check_read(thread, running, use, found, name, frame)
            return
        if not use.n_settings:
            use.before = _identity_of(before)
            use.is_managed = bool(use.readers)
            if not use.is_managed:
                self._check_restored(thread, running, found, name, frame)
        use.after = _identity_of(after)
        use.n_settings += 1
        use.where = describe_frame(frame)
        use.setters.add(frame.f_code)

    def _check_read(
        self,
        thread: int,
        running: _Running,
        use: _Use,
        found: Any,
        name: str,
        frame: types.FrameType,
    ) -> None:
        if id(found) not in self._used:
            return
        settings = self._settings(found)
        setting = settings.get((thread, name))
        if setting is None:
            mine = (it for key, it in settings.items() if key[1] == name and it.is_of(running))
            setting = next(mine, None)
            if setting is None:
                return
            reason = "before the task suspended, on another thread, where the value has stayed"
        elif setting.is_of(running):
            reason = "before the task suspended; others have run on the thread since"
        else:
            reason = "in another request, which is on the same thread by chance"
        if not setting.managers.isdisjoint(use.readers):
            if setting.read_at is None and not setting.is_of(running):
                setting.read_at = describe_frame(frame)
            return
        where = describe_frame(frame)
        self._warn(
            found,
            name,
            where,
            f"{where} reads %s, which was set by {setting.where}, {reason}",
            frame,
        )

    def _check_restored(
        self, thread: int, running: _Running, found: Any, name: str, frame: types.FrameType
    ) -> None:
        """Warn if the running task puts back a value that another request has read meanwhile.

        Such a value was not kept for the thread: it was the task's after all.
        """
        if id(found) not in self._used:
            return
        setting = self._settings(found).get((thread, name))
        if setting is not None and setting.read_at is not None and setting.is_of(running):
            self._warn(
                found,
                name,
                setting.read_at,
                f"{setting.read_at} has read %s in another request, while the task that had set it "
                f"by {setting.where} was suspended; that task puts it back by {describe_frame(frame)}",
                frame,
            )

    def role_moved(self, blocked: int, dispatcher: int) -> None:
        """Warn of values that stay behind on the blocked thread."""
        for key, (reference, settings) in list(self._used.items()):
            left = [it for (thread, _), it in settings.items() if thread == blocked]
            left = [it for it in left if not it.managers]
            found = reference()
            what = _name_thread_local(found) if left and found is not None else None
            if what and self._is_first_report(key):
                self._report(
                    f"{what} has values that were set by requests on thread "
                    f"{thread_name(blocked)!r}, where a threadlet is blocked, the last by "
                    f"{left[-1].where}; other requests of the loop now run on thread "
                    f"{thread_name(dispatcher)!r} and do not see them; {_REMEDY}",
                    None,
                )

    def _warn(
        self, found: Any, name: str, where: str, message: str, frame: types.FrameType
    ) -> None:
        if (
            self._is_first_report((id(found), name, where))
            and (what := _name_thread_local(found)) is not None
        ):
            self._report(f"{message.replace('%s', what + '.' + name)}; {_REMEDY}", frame)

    def _settings(self, found: Any) -> dict[tuple[int, str], _Setting]:
        known = self._used.get(id(found))
        if known is None:
            key, used = id(found), self._used
            known = (weakref.ref(found, lambda _: used.pop(key, None)), {})
            used[key] = known
        return known[1]

    def _is_first_report(self, thing: Any) -> bool:
        if thing in self._warned:
            return False
        self._warned.add(thing)
        return True


_ABSENT = None

#: Types that are compared by value; others are by identity, since their `__eq__` may run any code.
_PLAIN = (bool, bytes, float, int, str, types.NoneType)


def _identity_of(found: Found) -> Any:
    """Return what identifies a value without keeping it alive; `_ABSENT` if there is none."""
    if not found:
        return _ABSENT
    (value,) = found
    return (type(value), value) if type(value) in _PLAIN else id(value)


def _is_internal(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _INTERNAL


def _initialises(frame: types.FrameType, found: Any) -> bool:
    """Whether the object's own `__init__` sets the value, as it does once for each thread."""
    is_init = frame.f_code.co_name == "__init__"
    return is_init and any(it is found for it in frame.f_locals.values())


def _name_thread_local(found: Any) -> str | None:
    """Name a `threading.local` object; return None for one of the packages in `_INTERNAL`."""
    if type(found).__module__.partition(".")[0] in _INTERNAL:
        return None
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is found:
                is_internal = module_name.partition(".")[0] in _INTERNAL
                return None if is_internal else f"{module_name}.{name}"
    return object.__repr__(found)
