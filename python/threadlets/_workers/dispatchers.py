"""The Python side of a dispatcher's threads: what happens once per thread, wait, or failure.

The role moves between threads natively. This module sets up a thread that first holds the role, and
reports what stays blocked.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time
import types
import weakref
from asyncio import base_events
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Self

from threadlets import _core
from threadlets._debug_mode.checks import DebugChecks, description_of
from threadlets._debug_mode.reports import warn_without_raising
from threadlets._debug_mode.thread_locals import Found
from threadlets._hooks import DispatcherHooks, implements
from threadlets._introspection import format_thread, task_of
from threadlets._scopes.blocked import blocked_functions
from threadlets._workers.native_thread import NativeThread
from threadlets.exceptions import FloatingPointStateChanged
from threadlets.fp import _violations as violations

_dispatchers: weakref.WeakSet[ThreadedDispatcher] = weakref.WeakSet()


@implements(DispatcherHooks)
class ThreadedDispatcher(_core.Dispatcher):
    """A dispatcher whose threads `threading` knows, and which is reset in the child of a fork."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make a dispatcher, and register it for `_reset_after_fork`."""
        self = super().__new__(cls, *args, **kwargs)
        _dispatchers.add(self)
        return self

    def _worker_starts(self, number: int) -> tuple[NativeThread, dict[int, Any]]:
        """Return the object of a new worker thread, and the dict to enter it in by its ident."""
        return NativeThread(f"threadlets-{number}"), threading._active

    def _worker_joined(self, number: int) -> None:
        """Called by a worker before it first holds the role or calls a function."""
        NativeThread.begin()

    def _worker_left(self) -> None:
        """Called by a worker when it ends."""
        NativeThread.unregister()

    def _request_failed(self, exception: BaseException) -> None:
        """Report the failure of a request; the dispatcher goes on."""
        asyncio.log.logger.error("Exception in a request of %r", self, exc_info=exception)

    def _state_changed(self, subject: Any, changes: str, policy: str, is_threadlet: bool) -> None:
        """Count that `subject` has left the floating-point state changed; report it as `policy` says.

        Raises:
            FloatingPointStateChanged: the policy is "raise", and `subject` is a threadlet, whose
                awaiter gets the exception. Those of other requests are reported like failures.
        """
        violation = violations.record(subject, changes)
        error = FloatingPointStateChanged(violation.name, violation.where, changes)
        if policy == "warn":
            self._report(str(error))
        elif policy == "raise" and is_threadlet:
            raise error
        elif policy == "raise":
            self._violated(error, task_of(subject))

    def _violated(self, error: FloatingPointStateChanged, task: asyncio.Task[Any] | None) -> None:
        """Report a violation by a request that has no awaiter."""
        self._request_failed(error)

    def _report(self, message: str, frame: types.FrameType | None = None) -> None:
        """Warn with `message`, without raising in the code that runs."""
        warn_without_raising(message, frame, self._warning_raised)

    def _warning_raised(self, error: Exception) -> None:
        """Report a warning that a filter has made an error."""
        asyncio.log.logger.error("%s", error, exc_info=error)

    def _dispatcher_stalls(self, dispatcher: int | None, waiting: list[int]) -> None:
        """Report a dispatcher that stays in one request while functions wait to return."""
        asyncio.log.logger.error(
            "The dispatcher does not finish its request, while %d threadlet(s) wait to return. The "
            "dispatcher is here:\n%s\nWaiting to return:\n%s\nIf the dispatcher waits for a lock "
            "that one of the others holds, none of them can go on. Do not hold a threading lock "
            "across an await; or acquire it in a threadlet, with threadlets.call(lock.acquire)",
            len(waiting) or 1,
            format_thread(dispatcher),
            "\n".join(format_thread(thread) for thread in waiting),
        )

    def _orphaned(self) -> None:
        """End this process: it is the child of a fork, and would run its parent's loop for ever."""
        print(
            "threadlets: the child of a fork made in a threadlet went on with its parent's event "
            "loop, whose home thread it does not have; end the child with os._exit()",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    def _describe_blocked(self, n_threads: int) -> str:
        """Name the functions that are still blocked when the dispatcher is closed; empty if none."""
        if not n_threads:
            return ""
        blocked = [str(it) for it in blocked_functions(self)]
        return (
            f"{self!r} was closed while functions were blocked; they cannot be stopped, their "
            f"threads end when they return: {'; '.join(blocked) or n_threads}"
        )


class LoopDispatcher(ThreadedDispatcher):
    """The dispatcher of an event loop; a base class of `Loop`."""

    _asyncgen_firstiter_hook: Any
    call_exception_handler: Callable[[dict[str, Any]], None]
    _asyncgen_finalizer_hook: Any
    _current_handle: asyncio.Handle | None
    slow_callback_duration: float
    #: When the role was last taken from a blocked function (`time.monotonic()`); in debug mode.
    _moved_at = float("-inf")

    def _worker_joined(self, number: int) -> None:
        super()._worker_joined(number)
        sys.set_asyncgen_hooks(
            firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
        )
        if self._debug:
            sys.set_coroutine_origin_tracking_depth(asyncio.constants.DEBUG_STACK_DEPTH)

    def _worker_left(self) -> None:
        super()._worker_left()
        if self._debug:
            self._debug_checks.thread_locals.thread_ended()

    def _violated(self, error: FloatingPointStateChanged, task: asyncio.Task[Any] | None) -> None:
        context: dict[str, Any] = {"message": "Floating-point state changed", "exception": error}
        if task is not None:
            context["task"] = task
        self.call_exception_handler(context)

    def _warning_raised(self, error: Exception) -> None:
        self.call_exception_handler({"message": str(error), "exception": error})

    # -- debug mode ------------------------------------------------------------------------------

    @functools.cached_property
    def _debug_checks(self) -> DebugChecks:
        return DebugChecks(self._report)

    def _request_begins(self, what: Any) -> Any:
        """Called before each request in debug mode; see `DebugChecks.request_begins`."""
        if isinstance(what, asyncio.Handle):
            self._current_handle = what
        return self._debug_checks.request_begins(what)

    def _request_ended(self, what: Any, before: Any, duration: float) -> None:
        """Called after each request in debug mode; warn if it took `slow_callback_duration`."""
        self._current_handle = None
        self._debug_checks.request_ended(what, before)
        # A request that lost the role in a blocked function did not hold the loop up.
        has_moved = time.monotonic() - duration <= self._moved_at
        if duration >= self.slow_callback_duration and not has_moved:
            base_events.logger.warning(
                "Executing %s took %.3f seconds", description_of(what), duration
            )

    def _local_used(
        self,
        how: Literal["read", "set", "deleted"],
        found: Any,
        name: str,
        before: Found,
        after: Found,
    ) -> None:
        """Called in debug mode when a request uses the value of a `threading.local`, or sets one."""
        frame = sys._getframe(1)
        self._debug_checks.thread_locals.used(how, found, name, before, after, frame)

    def _role_moved(self, blocked: int, dispatcher: int) -> None:
        """Called in debug mode when a thread has taken the role from one that is blocked."""
        self._moved_at = time.monotonic()
        self._debug_checks.role_moved(blocked, dispatcher, asyncio.all_tasks(self))  # type: ignore[arg-type]


def _reset_after_fork() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher._after_fork()


os.register_at_fork(after_in_child=_reset_after_fork)


if TYPE_CHECKING:
    _hooks: type[DispatcherHooks] = ThreadedDispatcher
