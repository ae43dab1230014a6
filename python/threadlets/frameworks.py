"""Frameworks that call plain functions in worker threads call them as threadlets instead.

`use_threadlets_in_anyio` does it for whatever runs on anyio's `to_thread.run_sync`: the `def`
endpoints of Starlette and FastAPI, their sync dependencies and background tasks, file responses.
`wsgi` does it for WSGI applications. anyio and a2wsgi are imported only where they are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import importlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from threadlets.aio import Loop
from threadlets.calls import Pool

if TYPE_CHECKING:
    from a2wsgi.asgi_typing import ASGIApp, HTTPScope, Receive, Scope, Send, SendEvent
    from a2wsgi.wsgi_typing import WSGIApp
    from anyio import CapacityLimiter
    from anyio._backends._asyncio import CancelScope

__all__ = ["MissingPackage", "Replacement", "use_threadlets_in_anyio", "wsgi"]


class MissingPackage(ImportError):
    """A package that does the adapting is not installed, or its version is not one that is known."""


@contextlib.contextmanager
def _needed(package: str, for_what: str) -> Iterator[None]:
    """Say what to install when an import in the block fails."""
    try:
        yield
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            cause, remedy = "is not installed", f"pip install {package}"
        else:
            cause = f"is of a version that differs inside from those known ({error})"
            remedy = f"pip install -U {package} threadlets"
        raise MissingPackage(
            f"cannot {for_what}: the package {package!r} {cause}; {remedy}", name=package
        ) from error


# -- anyio -----------------------------------------------------------------------------------------


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
        with _needed("anyio", "run anyio's functions as threadlets"):
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


# -- WSGI ------------------------------------------------------------------------------------------


def wsgi(app: WSGIApp, *, pool: Pool | None = None) -> ASGIApp:
    """Make an ASGI application of a WSGI application, each of whose requests is a threadlet.

    a2wsgi translates. Where no threadlets loop runs, its thread pool does the work. With `pool`,
    all requests are the pool's: its limit is how many may run at once.

    The first part of a request's body is received before the application is called, and ten
    parts of a response may wait to be sent while it goes on; it blocks only beyond.

    Raises:
        MissingPackage: a2wsgi is not installed, or its version is not known.
    """
    return _WsgiApplication(app, pool)


# How many parts of a response wait to be sent before the application has to.
_PARTS_MAX = 10


class _WsgiApplication:
    """a2wsgi's middleware, with a way of its own for requests on a threadlets loop."""

    def __init__(self, app: WSGIApp, pool: Pool | None) -> None:
        with _needed("a2wsgi", "serve a WSGI application"):
            from a2wsgi import WSGIMiddleware
            from a2wsgi.wsgi import Body, WSGIResponder, build_environ
        limit = {} if pool is None or pool.limit is None else {"workers": pool.limit}
        self.app = app
        self._pool = pool
        self._fallback = WSGIMiddleware(app, **limit)
        self._make_body = Body
        self._make_responder = WSGIResponder
        self._build_environ = build_environ

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        if scope["type"] == "http" and isinstance(loop, Loop):
            await self._respond(loop, scope, receive, send)
        else:
            await self._fallback(scope, receive, send)

    async def _respond(self, loop: Loop, scope: HTTPScope, receive: Receive, send: Send) -> None:
        body = self._make_body(loop, receive)
        # Now, so that the application need not block for what is here already.
        message: Any = await receive()
        body.buffer += message.get("body", b"")
        body._has_more = message.get("more_body", False)
        environ = self._build_environ(scope, body)
        parts = _Parts(loop)
        responder = self._make_responder(self.app, self._fallback.executor, _PARTS_MAX)
        # a2wsgi's would block for each part.
        responder.send = parts.put  # type: ignore[method-assign, assignment]
        outcome = loop.create_future()
        call = (responder.wsgi, environ, responder.start_response)
        sending = loop.create_task(parts.send_all(send))
        try:
            loop._submit_call(outcome, False, self._pool, contextvars.copy_context().run, call)
            await outcome
            parts.end()
            await sending
        except ConnectionAbortedError:
            if sending.done():
                sending.result()
            raise
        finally:
            sending.cancel()
        if responder.exc_info is not None:
            # The application has answered with its error; the server is to hear of it, too.
            raise responder.exc_info[1].with_traceback(responder.exc_info[2])


class _Parts:
    """The parts of one response, on their way from the application to the server."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: asyncio.Queue[SendEvent | None] = asyncio.Queue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_PARTS_MAX):
            self._room.put(None)
        self._is_closed = False

    def put(self, part: SendEvent | None) -> None:
        """Have a part sent, and block only while too many wait; for the application's thread.

        Raises:
            ConnectionAbortedError: nobody sends any more.
        """
        if not self._is_closed:
            self._room.get()
        if self._is_closed:
            raise ConnectionAbortedError(
                "the response goes nowhere: the server takes no more of it, because the client "
                "has left or the request was cancelled; end the response"
            )
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, part)

    def end(self) -> None:
        """Say that no part follows; on the loop."""
        self._waiting.put_nowait(None)

    async def send_all(self, send: Send) -> None:
        """Send what is put until the end; then nobody can put more."""
        try:
            while (part := await self._waiting.get()) is not None:
                await send(part)
                self._room.put(None)
        finally:
            self._is_closed = True
            self._room.put(None)
