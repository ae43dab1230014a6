"""The internals of asyncio's loop that other programs use: its selector, ready queue and timers.

They are live: a change to them is a change to the native queues and the native poller. Virtual
clocks wrap `select`, nested loops bring a `_run_once` of their own, test helpers inspect the timers.
"""

from __future__ import annotations

import collections
import selectors
import sys
import threading
from asyncio import selector_events
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import Any

from threadlets import _core

#: Parts of a loop that can be replaced, as bits; the same as in `internals.rs`.
CLOCK, POLL, TICK, TIMERS, LIST = 1, 2, 4, 8, 16

#: Attributes of a loop or its class, and the part that each replaces.
REPLACES = {
    "time": CLOCK,
    "_selector": POLL,
    "_process_events": POLL,
    "_run_once": TICK,
    "call_at": TIMERS,
    "call_soon": 0,
}


class InternalsMixin(_core.Dispatcher):
    """The internals that `Loop` exposes, and the detection of those that a program has replaced."""

    _wants_asyncio_tasks = False
    _clock_resolution: float

    # -- what is replaced --------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; one that replaces a part of the loop is used from the next tick on."""
        if name == "_selector":
            _check_selector(value)
        super().__setattr__(name, value)
        if name in REPLACES:
            self._detect_replaced()

    def __delattr__(self, name: str) -> None:
        """Delete an attribute; the part that it has replaced is used again."""
        super().__delattr__(name)
        if name in REPLACES:
            self._detect_replaced()

    def _detect_replaced(self) -> None:
        """Find out which parts are replaced, by the loop's class or on the loop itself."""
        own, cls = vars(self), type(self)
        replaced = self._replaced & LIST
        calls_soon = False
        for name, what in REPLACES.items():
            if name == "_selector":
                is_replaced = _is_wrapped(own.get(name))
            else:
                is_replaced = name in own or getattr(cls, name, None) is not _NATIVE_ATTRIBUTES.get(
                    name
                )
            if is_replaced:
                replaced |= what
                calls_soon |= name == "call_soon"
        self._replaced = replaced
        # A replaced `call_soon` must see the steps of tasks, too; those of asyncio's tasks use it.
        self._uses_asyncio_tasks = self._wants_asyncio_tasks or calls_soon

    def _tick_until_stopped(self) -> None:
        """Run ticks until the loop is stopped, natively or by a `_run_once` that replaces them."""
        while True:
            if self._replaced & TICK:
                self._run_once()
                self._detect_replaced()
            else:
                self._run_ticks()
            if self._stopping:
                break

    # -- the poll ----------------------------------------------------------------------------------

    def _process_events(self, event_list: Iterable[tuple[selectors.SelectorKey, int]]) -> None:
        """Queue the events of a foreign `select`; those of the native poller are queued already."""
        others = [it for it in event_list if not isinstance(it[0], _Delivered)]
        if others:
            selector_events.BaseSelectorEventLoop._process_events(self, others)

    # -- the queues --------------------------------------------------------------------------------

    @property
    def _ready(self) -> ReadyQueue:
        return ReadyQueue(self)

    @_ready.setter
    def _ready(self, handles: Iterable[Any]) -> None:
        if type(handles) not in (ReadyQueue, collections.deque, list):
            raise TypeError(_CANNOT_REPLACE.format("ready queue", type(handles).__name__))
        queued = list(handles)
        self._take_ready()
        self._put_ready(queued)

    @property
    def _scheduled(self) -> list[Any]:
        if self._closed:
            return []
        if self._thread_id not in (None, threading.get_ident()):
            # Another thread gets a copy: only the thread that runs the loop may change the list.
            return self._timer_handles()
        self._sync_timers()
        listed = _TimerList(self._timer_handles())
        vars(self)["_timers_listed"] = listed, list(listed)
        self._replaced |= LIST
        return listed

    @_scheduled.setter
    def _scheduled(self, handles: list[Any]) -> None:
        if type(handles) not in (_TimerList, list):
            raise TypeError(_CANNOT_REPLACE.format("list of timers", type(handles).__name__))
        if not self._closed:
            vars(self)["_timers_listed"] = handles, self._timer_handles()
            self._replaced |= LIST
            self._sync_timers()

    def _sync_timers(self) -> None:
        """Apply to the native timers what a program has changed in the list of them."""
        listed = vars(self).get("_timers_listed")
        if listed is None:
            return
        handles, before = listed
        after = {id(it) for it in handles}
        known = {id(it) for it in before}
        for handle in before:
            if id(handle) not in after:
                self._stop_timer(handle)
        for handle in handles:
            if id(handle) not in known:
                self._start_timer(handle)
        before[:] = handles
        del listed
        # Only this frame, the loop and this call refer to the list: no program can change it now.
        if sys.getrefcount(handles) <= 3:
            del vars(self)["_timers_listed"]
            self._replaced &= ~LIST


_NATIVE_ATTRIBUTES: dict[str, Any] = {}


def remember_native_attributes(cls: type) -> None:
    """Record the originals of the attributes that can be replaced."""
    _NATIVE_ATTRIBUTES.update((name, getattr(cls, name, None)) for name in REPLACES)


_CANNOT_REPLACE = (
    "the loop's {} is native, and a {} cannot take its place; change the existing one in place, or "
    "use asyncio.SelectorEventLoop"
)


class _TimerList(list[Any]):
    """The timers as a heap, on which `heapq` works."""


class _Delivered(selectors.SelectorKey):
    """An event of the native poller, for which the loop has queued its requests already."""


class Selector:
    """The loop's poller, with the interface of `selectors.BaseSelector`.

    `select` polls; the loop uses a `select` that a program puts in its place. Descriptors are
    registered with `loop.add_reader` and `loop.add_writer`.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a new `select` is used from the next tick on."""
        super().__setattr__(name, value)
        if name == "select":
            self._loop._detect_replaced()

    def __delattr__(self, name: str) -> None:
        """Delete an attribute; once its replacement is deleted, `select` is the native one again."""
        super().__delattr__(name)
        if name == "select":
            self._loop._detect_replaced()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, at most for `timeout` seconds, and queue what they make ready.

        None waits for ever. Return the ready descriptors, each with a mask of events. A wake-up by
        another thread is reported as in asyncio's own loop: its self-pipe is readable.
        """
        ready, is_woken = self._loop._select(timeout)
        if is_woken and self._loop._ssock is not None:
            ready.append((self._loop._ssock.fileno(), True, False))
        return [
            (_Delivered(fd, fd, (mask := _mask(readable, writable)), None), mask)
            for fd, readable, writable in ready
        ]

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """Refuse to register a descriptor.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "descriptors cannot be registered with the loop's native poller directly; use "
            "loop.add_reader() or loop.add_writer()"
        )

    modify = unregister = register

    def get_map(self) -> dict[int, selectors.SelectorKey]:
        """Return the registrations of the watched descriptors, by number."""
        return {
            fd: selectors.SelectorKey(
                fd, fd, _mask(reader is not None, writer is not None), (reader, writer)
            )
            for fd, reader, writer in self._loop._descriptors()
        }

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """Return the registration of a descriptor, or of an object that has one.

        Raises:
            KeyError: the descriptor is not watched.
        """
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        try:
            return self.get_map()[fd]
        except KeyError:
            raise KeyError(f"{fileobj!r} is not registered") from None

    def close(self) -> None:
        """Do nothing: the poller ends with its loop."""


def _mask(readable: bool, writable: bool) -> int:
    return selectors.EVENT_READ * readable | selectors.EVENT_WRITE * writable


def _check_selector(selector: Any) -> None:
    """Refuse a selector of another kind: the loop registers no descriptors with it."""
    if isinstance(selector, selectors.BaseSelector):
        raise TypeError(
            f"the loop waits for events with its native poller, and a {type(selector).__name__} "
            "cannot take its place; wrap loop._selector.select, or use asyncio.SelectorEventLoop"
        )


def _is_wrapped(selector: Any) -> bool:
    return selector is not None and (type(selector) is not Selector or "select" in vars(selector))


class ReadyQueue(MutableSequence[Any]):
    """The loop's ready queue, with the interface of asyncio's: a deque of handles."""

    def __init__(self, loop: InternalsMixin) -> None:
        self._loop = loop

    def __len__(self) -> int:
        return self._loop._n_ready()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loop._ready_handles())

    def __getitem__(self, index: Any) -> Any:
        return self._loop._ready_handles()[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ReadyQueue):
            return self._loop is other._loop
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ReadyQueue({self._loop._ready_handles()})"

    def popleft(self) -> Any:
        """Remove and return the first handle, which the caller has to run."""
        handle = self._loop._pop_ready()
        if handle is None:
            raise IndexError("pop from an empty ready queue")
        return handle

    def append(self, handle: Any) -> None:
        """Queue a handle; a timer's handle is due at once."""
        self._loop._queue_handle(handle)

    def clear(self) -> None:
        """Drop everything that is queued."""
        for handle in self._loop._take_ready():
            handle.cancel()

    def copy(self) -> collections.deque[Any]:
        """Return a deque of the same handles."""
        return collections.deque(self)

    def __setitem__(self, index: Any, handle: Any) -> None:
        self._change(collections.deque.__setitem__, index, handle)

    def __delitem__(self, index: Any) -> None:
        self._change(collections.deque.__delitem__, index)

    def insert(self, index: int, handle: Any) -> None:
        """Queue a handle before the one with this index."""
        self._change(collections.deque.insert, index, handle)

    def appendleft(self, handle: Any) -> None:
        """Queue a handle before all others."""
        self.insert(0, handle)

    def extendleft(self, handles: Iterable[Any]) -> None:
        """Queue handles before all others, one after the other."""
        self._change(collections.deque.extendleft, handles)

    def rotate(self, n: int = 1) -> None:
        """Move the last `n` handles to the front."""
        self._change(collections.deque.rotate, n)

    def _change(self, change: Callable[..., Any], *args: Any) -> None:
        handles = collections.deque(self._loop._take_ready())
        try:
            change(handles, *args)
        finally:
            self._loop._put_ready(list(handles))
