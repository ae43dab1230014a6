"""anyio's worker threads as threadlets: whatever runs on anyio's `to_thread.run_sync`.

The `def` endpoints of Starlette and FastAPI do, their sync dependencies and background tasks, and
file responses. anyio is imported only where it is asked for.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import importlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from threadlets.aio import Loop
from threadlets.frameworks.packages import needed

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from anyio._backends._asyncio import CancelScope


def use_threadlets_in_anyio() -> Replacement:
    """Have `anyio.to_thread.run_sync` call functions as threadlets where a threadlets loop runs.

    On other loops, and in trio, it does what it always did. Every promise of `run_sync` stays: no
    loop runs where the function is called, it gets a copy of the context, `abandon_on_cancel` and
    cancel scopes work as before, and so do `anyio.from_thread`'s `run`, `run_sync` and
    `check_cancelled`. A limiter that the caller passes is obeyed. anyio's default limiter, of 40
    threads, is obeyed only once its `total_tokens` have been set to another number.

    Call it anywhere, any number of times. It lasts until `undo()` is called on what it returns, or
    until the end of a with-block around that.

    Raises:
        MissingPackage: anyio is not installed, or its version is not known.
    """
    return Replacement(_anyio())


class Replacement:
    """anyio's worker threads, replaced by threadlets until `undo()` or the end of a with-block."""

    def __init__(self, anyio: _Anyio) -> None:
        self._anyio: _Anyio | None = anyio
        anyio.replace()

    def undo(self) -> None:
        """Put anyio's worker threads back, unless others still want threadlets; once is enough."""
        if self._anyio is not None:
            self._anyio.put_back()
            self._anyio = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.undo()


@functools.cache
def _anyio() -> _Anyio:
    return _Anyio()


# What anyio's default limiter allows unless it is told otherwise.
_DEFAULT_TOKENS = 40
# Where a loop keeps its `_Worker`: a dictionary of loops could not let go of them.
_WORKER = "_anyio_worker"
# Under which name `anyio.from_thread` finds the cancel scope of a call.
_SCOPE = "current_cancel_scope"


class _Worker(NamedTuple):
    """What anyio knows of the worker threads of one loop."""

    #: What `anyio.from_thread` finds in each: the way back to the loop.
    notes: dict[str, Any]
    default_limiter: CapacityLimiter


class _Call:
    """A function on its way to the dispatcher, which calls it as anyio's worker threads would."""

    __slots__ = ("_function", "_threadlocals", "args", "context", "notes")

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        threadlocals: threading.local,
        notes: dict[str, Any],
    ) -> None:
        self._function = function
        self._threadlocals = threadlocals
        self.args = args
        self.context = contextvars.copy_context()
        self.notes = notes

    def __call__(self) -> Any:
        notes = vars(self._threadlocals)
        # Not always empty: this may be a loop that another loop's threadlet runs.
        kept = notes.copy()
        notes.update(self.notes)
        try:
            return self.context.run(self._function, *self.args)
        finally:
            notes.clear()
            notes.update(kept)

    @property
    def func(self) -> Callable[..., Any]:
        """The user's function; the dispatcher calls those in a row that are the same."""
        function = self._function
        while isinstance(function, functools.partial):
            function = function.func
        return function

    def __repr__(self) -> str:
        return getattr(self.func, "__qualname__", None) or repr(self.func)


class _Anyio:
    """anyio's asyncio backend, and the one method of it that is replaced."""

    def __init__(self) -> None:
        with needed("anyio", "run anyio's functions as threadlets"):
            from anyio._backends._asyncio import AsyncIOBackend, CancelScope, _task_states
            from anyio._core._eventloop import claim_worker_thread, threadlocals
        self._backend = AsyncIOBackend
        self._make_scope = CancelScope
        self._task_states = _task_states
        self._claim_worker_thread = claim_worker_thread
        self._threadlocals = threadlocals
        self._library_of_context = _library_of_context()
        self._theirs = vars(AsyncIOBackend)["run_sync_in_worker_thread"]
        self._ours = classmethod(self._make_method(self._theirs.__func__))
        self._n_users = 0

    def replace(self) -> None:
        """Replace the method, for one more user."""
        self._n_users += 1
        self._backend.run_sync_in_worker_thread = self._ours  # type: ignore[method-assign, assignment]

    def put_back(self) -> None:
        """Put the method back once the last user is gone."""
        self._n_users -= 1
        if not self._n_users:
            self._backend.run_sync_in_worker_thread = self._theirs  # type: ignore[method-assign]

    def _make_method(self, theirs: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(theirs)
        def run_sync_in_worker_thread(
            cls: Any,
            func: Callable[..., Any],
            args: tuple[Any, ...],
            abandon_on_cancel: bool = False,
            limiter: CapacityLimiter | None = None,
        ) -> Any:
            loop = asyncio.get_running_loop()
            if isinstance(loop, Loop):
                return self._run(loop, func, args, abandon_on_cancel, limiter)
            return theirs(cls, func, args, abandon_on_cancel, limiter)

        return run_sync_in_worker_thread

    async def _run(
        self,
        loop: Loop,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        abandon_on_cancel: bool,
        limiter: CapacityLimiter | None,
    ) -> Any:
        """Call a function as a threadlet of the running loop, and wait for what it returns."""
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
        outcome = loop.create_future()
        call = _Call(func, args, self._threadlocals, worker.notes)
        if self._library_of_context is not None:
            call.context.run(self._library_of_context.set, None)
        if scope is None:
            # Nobody can cancel in anyio's way, so there is nothing to be shielded from.
            loop._submit_call(outcome, False, None, call, ())
            return await outcome
        with self._make_scope(shield=not abandon_on_cancel) as own_scope:
            call.notes = worker.notes | {_SCOPE: own_scope if abandon_on_cancel else scope}
            loop._submit_call(outcome, False, None, call, ())
            return await outcome

    def _current_scope(self, loop: Loop) -> CancelScope | None:
        task = asyncio.current_task(loop)
        state = self._task_states.get(task) if task is not None else None
        return state.cancel_scope if state is not None else None

    def _make_worker(self, loop: Loop) -> _Worker:
        here = vars(self._threadlocals)
        kept = here.copy()
        here.clear()
        with self._claim_worker_thread(self._backend, loop):
            # A scope that nobody cancels: what functions run on the loop is to be in one.
            notes = here | {_SCOPE: self._make_scope()}
        here.update(kept)
        worker = _Worker(notes, self._backend.current_default_thread_limiter())
        vars(loop)[_WORKER] = worker
        return worker


def _library_of_context() -> contextvars.ContextVar[str | None] | None:
    """Where sniffio looks up which library runs, if there is sniffio."""
    try:
        sniffio = importlib.import_module("sniffio")
    except ImportError:
        return None
    found: contextvars.ContextVar[str | None] = sniffio.current_async_library_cvar
    return found
