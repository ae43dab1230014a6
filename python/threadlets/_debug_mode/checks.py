"""Debug mode's checks around each request: how long it takes, and which state it leaves changed."""

from __future__ import annotations

import asyncio
from asyncio import base_events
from contextvars import Context
from typing import Any

from threadlets._debug_mode.affinity import Affinity
from threadlets._debug_mode.reports import Report
from threadlets._debug_mode.shared_state import SharedState, Snapshot
from threadlets._debug_mode.thread_locals import ThreadLocals


class DebugChecks:
    """Debug mode's checks for the requests of one loop."""

    def __init__(self, report: Report) -> None:
        self._affinity = Affinity(report)
        self._shared_state = SharedState(report)
        self.thread_locals = ThreadLocals(report)

    def request_begins(self, what: Any) -> Snapshot | None:
        """Record the state that a request finds.

        `what` is a task, an `asyncio.Handle`, a callable, a protocol, or the request's name.
        """
        self.thread_locals.request_begins(_subject_of(what))
        try:
            return self._shared_state.before(_context_of(what))
        except RuntimeError:
            # A blocked function has entered the context, so the request will have to wait.
            return None

    def request_ended(self, what: Any, before: Snapshot | None) -> None:
        """Warn of state that the request has left changed."""
        self.thread_locals.request_ended()
        if before is not None:
            self._shared_state.after(_context_of(what), _subject_of(what), before)

    def role_moved(self, blocked: int, dispatcher: int, tasks: set[asyncio.Task[Any]]) -> None:
        """Warn of what stays behind on the blocked thread."""
        self.thread_locals.role_moved(blocked, dispatcher)
        self._affinity.role_moved(blocked, dispatcher, tasks)


def description_of(what: Any) -> str:
    """Describe a request for the warning that it took long."""
    if isinstance(what, asyncio.Handle):
        return str(base_events._format_handle(what))
    return f"<connection of {what!r}>" if isinstance(what, asyncio.BaseProtocol) else str(what)


def _context_of(what: Any) -> Context | None:
    # The steps of asyncio's own tasks arrive as handles, those of native tasks as tasks.
    known: Any = what if isinstance(what, asyncio.Handle | asyncio.Task) else None
    return getattr(known, "_context", None)


def _subject_of(what: Any) -> Any:
    return what._callback if isinstance(what, asyncio.Handle) else what
