"""Calls the functions that use anyio's `to_thread.run_sync` as threadlets.

The `def` endpoints of Starlette and FastAPI use it, their sync dependencies and background tasks,
and file responses. anyio is imported only when it is needed.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import importlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from threadlets._aio.loop import Loop
from threadlets._core import ThreadFunction, call_thread_function
from threadlets._public import set_module
from threadlets.frameworks._packages import require

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from anyio._backends._asyncio import CancelScope


@set_module("threadlets.frameworks")
def use_threadlets_in_anyio() -> Replacement:
    """Have `anyio.to_thread.run_sync` call functions as threadlets where a threadlets loop runs.

    On other loops, and in trio, nothing changes. `run_sync` keeps all its promises: no loop runs in
    the thread of the function, which gets a copy of the context; `abandon_on_cancel` and cancel
    scopes work as before, and so do `anyio.from_thread`'s `run`, `run_sync` and `check_cancelled`.
    A limiter that the caller passes is obeyed. anyio's default limiter, of 40 threads, is obeyed
    only once its `total_tokens` have been set to another number.

    It can be called anywhere, any number of times. It lasts until `undo()` is called on the returned
    object, or until the end of a with-block that uses the object.

    Raises:
        MissingPackage: anyio is not installed, or its version is not supported.
    """
    return Replacement(_anyio())


@set_module("threadlets.frameworks")
class Replacement:
    """anyio's worker threads, replaced by threadlets until `undo()` or the end of a with-block."""

    def __init__(self, anyio: _Anyio) -> None:
        self._anyio: _Anyio | None = anyio
        anyio.replace()

    def undo(self) -> None:
        """Restore anyio's worker threads, unless another `Replacement` is in use; idempotent."""
        if self._anyio is not None:
            self._anyio.restore()
            self._anyio = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.undo()


@functools.cache
def _anyio() -> _Anyio:
    return _Anyio()


# The tokens of anyio's default limiter until a program changes them.
_DEFAULT_TOKENS = 40
# The attribute in which a loop keeps its `_Worker`; a dictionary of loops would keep them alive.
_WORKER = "_anyio_worker"
# The name under which `anyio.from_thread` finds the cancel scope of a call.
_SCOPE = "current_cancel_scope"


class _Worker(NamedTuple):
    """The state that anyio's worker threads of one loop would share."""

    #: The thread-local values by which `anyio.from_thread` finds the loop.
    thread_values: dict[str, Any]
    default_limiter: CapacityLimiter


class _Anyio:
    """anyio's asyncio backend, and the replacement of one of its methods."""

    def __init__(self) -> None:
        with require("anyio", "run anyio's functions as threadlets"):
            from anyio._backends._asyncio import AsyncIOBackend, CancelScope, _task_states
            from anyio._core._eventloop import claim_worker_thread, threadlocals
        self._backend = AsyncIOBackend
        self._make_scope = CancelScope
        self._task_states = _task_states
        # What it keeps. It is usually empty, which costs less to see than a task to look up.
        self._known_states: dict[Any, Any] = vars(_task_states)["data"]
        self._claim_worker_thread = claim_worker_thread
        self._threadlocals = threadlocals
        self._library_of_context = _library_of_context()
        self._original = vars(AsyncIOBackend)["run_sync_in_worker_thread"]
        self._replacement = classmethod(self._make_method(self._original.__func__))
        self._n_users = 0

    def replace(self) -> None:
        """Replace the method, for one more user."""
        self._n_users += 1
        self._backend.run_sync_in_worker_thread = self._replacement  # type: ignore[method-assign, assignment]

    def restore(self) -> None:
        """Put the method back once the last user is gone."""
        self._n_users -= 1
        if not self._n_users:
            self._backend.run_sync_in_worker_thread = self._original  # type: ignore[method-assign]

    def _make_method(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run_sync_in_worker_thread(
            cls: Any,
            func: Callable[..., Any],
            args: tuple[Any, ...],
            abandon_on_cancel: bool = False,
            limiter: CapacityLimiter | None = None,
        ) -> Any:
            loop = asyncio.get_running_loop()
            if isinstance(loop, Loop):
                if limiter is None and not abandon_on_cancel and not self._known_states:
                    worker: _Worker = vars(loop).get(_WORKER) or self._make_worker(loop)
                    if worker.default_limiter.total_tokens == _DEFAULT_TOKENS:
                        # No task has a cancel scope: no call needs a shield from anyio's cancellation.
                        return call_thread_function(
                            self._function(func, args, worker.thread_values)
                        )
                return self._run(loop, func, args, abandon_on_cancel, limiter)
            return original(cls, func, args, abandon_on_cancel, limiter)

        return run_sync_in_worker_thread

    async def _run(
        self,
        loop: Loop,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        abandon_on_cancel: bool,
        limiter: CapacityLimiter | None,
    ) -> Any:
        """Call a function as a threadlet of the running loop, and return its result."""
        worker: _Worker = vars(loop).get(_WORKER) or self._make_worker(loop)
        scope = self._current_scope(loop)
        if scope is not None:
            await self._backend.checkpoint_if_cancelled()
        if limiter is None:
            limiter = worker.default_limiter
            if limiter.total_tokens == _DEFAULT_TOKENS:
                return await self._call(loop, worker, func, args, scope, abandon_on_cancel)
        async with limiter:
            return await self._call(loop, worker, func, args, scope, abandon_on_cancel)

    async def _call(
        self,
        loop: Loop,
        worker: _Worker,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        scope: CancelScope | None,
        abandon_on_cancel: bool,
    ) -> Any:
        if scope is None:
            return await self._submit(loop, func, args, worker.thread_values, abandon_on_cancel)
        with self._make_scope(shield=not abandon_on_cancel) as own_scope:
            thread_values = worker.thread_values | {
                _SCOPE: own_scope if abandon_on_cancel else scope
            }
            return await self._submit(loop, func, args, thread_values, abandon_on_cancel)

    def _submit(
        self,
        loop: Loop,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        thread_values: dict[str, Any],
        abandon_on_cancel: bool,
    ) -> Awaitable[Any]:
        function = self._function(func, args, thread_values)
        if not abandon_on_cancel:
            return call_thread_function(function)
        # Not in the stack of the caller, who may leave before the function does.
        outcome: asyncio.Future[Any] = loop.create_future()
        loop._submit_call(outcome, False, None, function, ())
        return outcome

    def _function(
        self, func: Callable[..., Any], args: tuple[Any, ...], thread_values: dict[str, Any]
    ) -> ThreadFunction:
        library = self._library_of_context
        return ThreadFunction(func, args, self._threadlocals, thread_values, library)

    def _current_scope(self, loop: Loop) -> CancelScope | None:
        task = asyncio.current_task(loop)
        state = self._task_states.get(task) if task is not None else None
        return state.cancel_scope if state is not None else None

    def _make_worker(self, loop: Loop) -> _Worker:
        here = vars(self._threadlocals)
        kept = here.copy()
        here.clear()
        with self._claim_worker_thread(self._backend, loop):
            # A scope that is never cancelled, for what functions run on the loop.
            thread_values = here | {_SCOPE: self._make_scope()}
        here.update(kept)
        worker = _Worker(thread_values, self._backend.current_default_thread_limiter())
        vars(loop)[_WORKER] = worker
        return worker


def _library_of_context() -> contextvars.ContextVar[str | None] | None:
    """Return the variable in which sniffio looks up the running library; None without sniffio."""
    try:
        sniffio = importlib.import_module("sniffio")
    except ImportError:
        return None
    found: contextvars.ContextVar[str | None] = sniffio.current_async_library_cvar
    return found
