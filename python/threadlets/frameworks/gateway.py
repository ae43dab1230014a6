"""WSGI applications as ASGI applications, each of whose requests is a threadlet.

A request has three sides: the application, in its own thread; a task that sends what it makes; and
a task that receives the body, a little ahead, and then hears that the client has left. Whichever
fails first ends the others: nobody makes a response that nobody takes.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
import queue
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from threadlets.aio import Loop
from threadlets.calls import Pool
from threadlets.frameworks.packages import needed

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

    from a2wsgi.asgi_typing import ASGIApp, HTTPScope, Receive, Scope, Send, SendEvent
    from a2wsgi.wsgi_typing import Environ, ExceptionInfo, WriteCallable, WSGIApp

# How many parts of a response wait to be sent before the application has to.
_PARTS_MAX = 10
# How much of a request's body is received before the application reads it.
_AHEAD_MAX = 256 * 1024


def wsgi(app: WSGIApp, *, pool: Pool | None = None) -> ASGIApp:
    """Make an ASGI application of a WSGI application, each of whose requests is a threadlet.

    Where no threadlets loop runs, a pool of threads does the work. With `pool`, all requests are
    the pool's: its limit is how many may run at once.

    The first part of a request's body is received before the application is called, and ten
    parts of a response may wait to be sent while it goes on; it blocks only beyond.

    When the client has left, the server's `send` has failed or the request is cancelled, the
    response is closed at its next part, `write()` and reads of `wsgi.input` raise
    ConnectionAbortedError, and a request that has not begun never does.

    Raises:
        MissingPackage: a2wsgi is not installed, or its version is not known.
    """
    return _Gateway(app, pool)


class _NobodyThere(ConnectionAbortedError):
    """The client that was to take the response, or was sending the request, has gone."""


class _Gateway:
    """The ASGI application: a2wsgi says what an environ is, and answers what is no request."""

    def __init__(self, app: WSGIApp, pool: Pool | None) -> None:
        with needed("a2wsgi", "serve a WSGI application"):
            from a2wsgi import WSGIMiddleware
            from a2wsgi.wsgi import build_environ
        limit = {} if pool is None or pool.limit is None else {"workers": pool.limit}
        self.app = app
        self._pool = pool
        self._others = WSGIMiddleware(app, **limit)
        self._build_environ = build_environ

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._respond(scope, receive, send)
        else:
            await self._others(scope, receive, send)

    async def _respond(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        # Now, so that the application need not block for what is here already.
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            return
        body = _Body(loop, receive)
        body.add(message)
        parts = _Parts(loop)
        response = _Response(self.app, parts)
        environ = self._build_environ(scope, body.as_file())  # type: ignore[arg-type]
        sending = loop.create_task(parts.send_all(send))
        receiving: asyncio.Task[bool] | None = None

        def leave() -> None:
            parts.close()
            body.close_early()
            sending.cancel()

        def sent(_sending: asyncio.Task[None]) -> None:
            if not sending.cancelled():
                # Looked at, in case the application's own error is the one that is raised.
                sending.exception()
            leave()

        def received(receiving: asyncio.Task[bool]) -> None:
            # A server whose `receive` fails has not said that the client has left.
            if not receiving.cancelled() and not receiving.exception() and receiving.result():
                leave()

        def listen() -> None:
            nonlocal receiving
            # Most applications are quick, and nobody listens in vain.
            if not outcome.done():
                receiving = loop.create_task(body.receive_all())
                receiving.add_done_callback(received)

        sending.add_done_callback(sent)
        error: BaseException | None = None
        try:
            outcome = self._start(loop, _Request(response, environ))
            # Behind the call, which is queued as well.
            loop.call_soon(listen)
            try:
                await outcome
            except _NobodyThere:
                # The application has passed on what it was told.
                pass
            except Exception as raised:
                error = raised
            # What it has made goes out, whatever became of it then.
            parts.end()
            try:
                await sending
            except asyncio.CancelledError:
                # Because the client has left, or because we are cancelled ourselves?
                if not parts.is_closed or _is_cancelled():
                    raise
            except Exception as raised:
                error = error or raised
        finally:
            leave()
            if receiving is not None:
                receiving.cancel()
        # If the application has answered with its error, the server is to hear of it, too.
        if (error := error or response.error) is not None:
            try:
                raise error
            finally:
                # Its traceback refers to this frame.
                del error

    def _start(self, loop: asyncio.AbstractEventLoop, make: _Request) -> asyncio.Future[None]:
        context = contextvars.copy_context()
        if not isinstance(loop, Loop):
            return loop.run_in_executor(self._others.executor, context.run, make)
        outcome: asyncio.Future[None] = loop.create_future()
        loop._submit_call(outcome, False, self._pool, context.run, (make,))
        return outcome


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Request:
    """One call of the application, by which the loop remembers whether it blocks."""

    def __init__(self, response: _Response, environ: Environ) -> None:
        self._response = response
        self._environ = environ

    @property
    def func(self) -> WSGIApp:
        return self._response.app

    def __call__(self) -> None:
        self._response.make(self._environ)


class _Response:
    """What one call of the application answers, as PEP 3333 has it; for the application's thread."""

    def __init__(self, app: WSGIApp, parts: _Parts) -> None:
        self.app = app
        self._parts = parts
        self._head: SendEvent | None = None
        self._is_started = False
        #: What went wrong, where the application has answered with an error page.
        self.error: BaseException | None = None

    def make(self, environ: Environ) -> None:
        """Call the application and put what it answers; close what it returns, however it ends."""
        if self._parts.is_closed:
            # The client has left while the request waited for its turn.
            return
        iterable: Iterable[bytes] = self.app(environ, self._start)
        try:
            for chunk in iterable:
                self._write(chunk)
            self._put_head()
            self._parts.put({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            close = getattr(iterable, "close", None)
            if close is not None:
                close()

    def _start(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: ExceptionInfo | None = None,
    ) -> WriteCallable:
        """Keep the head until there is a body: until then an error page may replace it."""
        error = exc_info[1] if exc_info else None
        if error is not None and self._is_started:
            raise error
        if not exc_info and self._head is not None:
            raise RuntimeError(
                "start_response() was called a second time without exc_info; only an error may "
                "replace a response: start_response(status, headers, sys.exc_info())"
            )
        self._head = {
            "type": "http.response.start",
            "status": int(status.partition(" ")[0]),
            "headers": [
                (name.strip().encode("latin1").lower(), value.strip().encode("latin1"))
                for name, value in headers
            ],
        }
        self.error = error
        return self._write

    def _write(self, chunk: bytes) -> None:
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"a response's parts are bytes, and this one is {type(chunk).__name__}; encode it"
            )
        if not len(chunk):
            self._parts.check()
            return
        self._put_head()
        # A copy of what is mutable: it waits, and the application goes on.
        self._parts.put({"type": "http.response.body", "body": bytes(chunk), "more_body": True})

    def _put_head(self) -> None:
        if self._head is None:
            raise RuntimeError(
                "the response has no status: the application did not call start_response() before "
                "the first part of the body"
            )
        if not self._is_started:
            self._is_started = True
            self._parts.put(self._head)


class _Parts:
    """The parts of one response, on their way from the application to the server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: asyncio.Queue[SendEvent | None] = asyncio.Queue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_PARTS_MAX):
            self._room.put(None)
        self.is_closed = False

    def put(self, part: SendEvent) -> None:
        """Have a part sent, and block only while too many wait; for the application's thread.

        Raises:
            ConnectionAbortedError: nobody sends any more.
        """
        self.check()
        self._room.get()
        if self.is_closed:
            # Others that wait for room are to hear of it, too.
            self._room.put(None)
        self.check()
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, part)

    def check(self) -> None:
        """See that parts are sent.

        Raises:
            ConnectionAbortedError: nobody sends any more.
        """
        if self.is_closed:
            raise _NobodyThere(
                "the response goes nowhere: the server takes no more of it, because the client "
                "has left or the request was cancelled; end the response"
            )

    def end(self) -> None:
        """Say that no part follows; on the loop."""
        # Behind the parts: the stock loop may have ended the call before it has looked for them.
        self._loop.call_soon(self._waiting.put_nowait, None)

    def close(self) -> None:
        """Refuse further parts, and wake who waits for room."""
        self.is_closed = True
        self._room.put(None)

    async def send_all(self, send: Send) -> None:
        """Send what is put until the end."""
        while (part := await self._waiting.get()) is not None:
            await send(part)
            self._room.put(None)


class _Body:
    """A request's body: received on the loop, read in the application's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive) -> None:
        self._loop = loop
        self._receive = receive
        # None is the end that came early.
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._is_complete = False
        # The loop writes the one, the application the other: no lock is needed.
        self._n_received = 0
        self._n_taken = 0
        self._room = asyncio.Event()
        self._waits_for_room = False
        self._error: Exception | None = None

    # -- on the loop --

    def add(self, message: Any) -> None:
        """Add a part that the server has received."""
        if part := message.get("body", b""):
            self._n_received += len(part)
            self._chunks.put(part)
        if not message.get("more_body", False):
            self._is_complete = True
            self._chunks.put(b"")

    def as_file(self) -> io.BufferedIOBase:
        """Return what the application reads; now, or piece by piece as it comes."""
        if self._is_complete:
            # The usual case, and a tenth of the cost.
            return io.BytesIO(self.take())
        return io.BufferedReader(_Reader(self))

    async def receive_all(self) -> bool:
        """Receive, not too far ahead, and then return whether the client has left."""
        try:
            while True:
                await self._have_room()
                message: Any = await self._receive()
                if message["type"] == "http.disconnect":
                    return True
                if self._is_complete:
                    return False
                self.add(message)
        except Exception as error:
            self._error = error
            self.close_early()
            raise

    async def _have_room(self) -> None:
        try:
            while self._is_too_far_ahead():
                self._room.clear()
                # Say so before looking again: the application takes, then looks here.
                self._waits_for_room = True
                if self._is_too_far_ahead():
                    await self._room.wait()
        finally:
            self._waits_for_room = False

    def _is_too_far_ahead(self) -> bool:
        return not self._is_complete and self._n_received - self._n_taken >= _AHEAD_MAX

    def close_early(self) -> None:
        """Fail who reads on where the body is not complete."""
        self._chunks.put(None)

    # -- in the application's thread --

    def take(self) -> bytes:
        """Wait for the next part; b"" at the end, and not to be called after it.

        Raises:
            ConnectionAbortedError: the client has left before the end, or the request is over.
        """
        chunk = self._chunks.get()
        if chunk is None:
            # For the next read.
            self._chunks.put(None)
            raise self._error or _NobodyThere(
                "the request's body is not complete: the client has left, or the request is over; "
                "nothing more will come"
            )
        self._n_taken += len(chunk)
        if self._waits_for_room:
            self._loop.call_soon_threadsafe(self._room.set)
        return chunk


class _Reader(io.RawIOBase):
    """A body as a raw file, which lines and sizes are read from through a buffer."""

    def __init__(self, body: _Body) -> None:
        self._body = body
        self._rest = memoryview(b"")
        self._is_at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill what there is, and wait only for the first of it; 0 at the body's end."""
        self._fill()
        with memoryview(buffer).cast("B") as into:
            n = min(len(into), len(self._rest))
            into[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n

    def readall(self) -> bytes:
        """Wait for all that is left."""
        taken = []
        while self._fill():
            taken.append(self._rest)
            self._rest = memoryview(b"")
        return b"".join(taken)

    def _fill(self) -> bool:
        """Have something to read, and return whether there is anything before the end."""
        if not self._rest and not self._is_at_end:
            self._rest = memoryview(self._body.take())
            self._is_at_end = not self._rest
        return not self._is_at_end
