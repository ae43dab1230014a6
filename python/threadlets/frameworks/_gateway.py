"""Runs WSGI applications as ASGI applications, each of whose requests is a threadlet.

A request has three parts: the application, in its own thread; a task that sends the response; and a
task that receives the body, a little ahead, and then waits for the client to leave. Whichever fails
first ends the others, so that the application makes no response that is not sent.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
import queue
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from threadlets._aio.loop import Loop
from threadlets._calls import Pool
from threadlets._public import set_module
from threadlets.exceptions import ClientDisconnected
from threadlets.frameworks._packages import require

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

    from a2wsgi.asgi_typing import ASGIApp, HTTPScope, Receive, Scope, Send, SendEvent
    from a2wsgi.wsgi_typing import Environ, ExceptionInfo, WriteCallable, WSGIApp

# How many parts of a response may wait to be sent before the application blocks.
_PARTS_MAX = 10
# How many bytes of a request's body are received before the application reads them.
_AHEAD_MAX = 256 * 1024


@set_module("threadlets.frameworks")
def wsgi(app: WSGIApp, *, pool: Pool | None = None) -> ASGIApp:
    """Make an ASGI application of a WSGI application, each of whose requests is a threadlet.

    On other loops, a thread pool runs the requests. With `pool`, all requests belong to that pool,
    whose limit is the number that may run at once.

    The first part of a request's body is received before the application is called, and ten parts
    of a response may wait to be sent while the application goes on; only further ones block it.

    When the client has left, the server's `send` has failed or the request is cancelled, the
    response is closed at its next part, `write()` and reads of `wsgi.input` raise
    `ClientDisconnected`, and a request that has not begun never does.

    Raises:
        MissingPackage: a2wsgi is not installed, or its version is not supported.
    """
    return _Gateway(app, pool)


class _Gateway:
    """The ASGI application; a2wsgi builds each environ, and answers scopes other than HTTP."""

    def __init__(self, app: WSGIApp, pool: Pool | None) -> None:
        with require("a2wsgi", "serve a WSGI application"):
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
        # Received first, so that the application need not block for what has arrived already.
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
                # Retrieved, since the application's own error may be raised in its place.
                sending.exception()
            leave()

        def received(receiving: asyncio.Task[bool]) -> None:
            # A server whose `receive` fails has not said that the client has left.
            if not receiving.cancelled() and not receiving.exception() and receiving.result():
                leave()

        def listen() -> None:
            nonlocal receiving
            # Most applications are quick, and need no task that receives.
            if not outcome.done():
                receiving = loop.create_task(body.receive_all())
                receiving.add_done_callback(received)

        sending.add_done_callback(sent)
        error: BaseException | None = None
        try:
            outcome = self._start(loop, _Request(response, environ))
            # Queued behind the call.
            loop.call_soon(listen)
            try:
                await outcome
            except ClientDisconnected:
                # The application has let the exception of `write()` or of a read propagate.
                pass
            except Exception as raised:
                error = raised
            # What the application has made is sent, even if it failed then.
            parts.end()
            try:
                await sending
            except asyncio.CancelledError:
                # `leave` cancels `sending`, too; only a cancellation of this task is raised.
                if not parts.is_closed or _is_cancelled():
                    raise
            except Exception as raised:
                error = error or raised
        finally:
            leave()
            if receiving is not None:
                receiving.cancel()
        # An error that the application has answered with a page of its own is raised, too.
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
    """One call of the application; the loop's history counts it for `func`."""

    def __init__(self, response: _Response, environ: Environ) -> None:
        self._response = response
        self._environ = environ

    @property
    def func(self) -> WSGIApp:
        return self._response.app

    def __call__(self) -> None:
        self._response.make(self._environ)


class _Response:
    """The response of one call of the application (PEP 3333); used in the application's thread."""

    def __init__(self, app: WSGIApp, parts: _Parts) -> None:
        self.app = app
        self._parts = parts
        self._head: SendEvent | None = None
        self._is_started = False
        #: The error, if the application has answered with an error page.
        self.error: BaseException | None = None

    def make(self, environ: Environ) -> None:
        """Call the application and put what it answers; always close what it returns."""
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
        # Copied if mutable, since the part waits while the application goes on.
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
        """Queue a part to be sent; block while too many wait. For the application's thread.

        Raises:
            ClientDisconnected: parts are no longer sent.
        """
        self.check()
        self._room.get()
        if self.is_closed:
            # Wake others that wait for room.
            self._room.put(None)
        self.check()
        self._loop.call_soon_threadsafe(self._waiting.put_nowait, part)

    def check(self) -> None:
        """Check that parts are still sent.

        Raises:
            ClientDisconnected: parts are no longer sent.
        """
        if self.is_closed:
            raise ClientDisconnected(
                "the response goes nowhere: the server takes no more of it, because the client "
                "has left or the request was cancelled; end the response"
            )

    def end(self) -> None:
        """Mark the end of the response; for the thread of the loop."""
        # Queued behind the parts, which asyncio's own loop may queue only after the call has ended.
        self._loop.call_soon(self._waiting.put_nowait, None)

    def close(self) -> None:
        """Refuse further parts, and wake threads that wait for room."""
        self.is_closed = True
        self._room.put(None)

    async def send_all(self, send: Send) -> None:
        """Send the parts that are put, until the end."""
        while (part := await self._waiting.get()) is not None:
            await send(part)
            self._room.put(None)


class _Body:
    """A request's body: received on the loop, read in the application's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive) -> None:
        self._loop = loop
        self._receive = receive
        # None: the body has ended early.
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._is_complete = False
        # Only the loop writes the first, only the application the second: no lock is needed.
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
        """Return the file that the application reads, complete or filled while it is read."""
        if self._is_complete:
            # The usual case, at a tenth of the cost.
            return io.BytesIO(self.take())
        return io.BufferedReader(_Reader(self))

    async def receive_all(self) -> bool:
        """Receive the body, not too far ahead; then wait, and return whether the client has left."""
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
                # Set before the second check: the application takes a part, then reads this flag.
                self._waits_for_room = True
                if self._is_too_far_ahead():
                    await self._room.wait()
        finally:
            self._waits_for_room = False

    def _is_too_far_ahead(self) -> bool:
        return not self._is_complete and self._n_received - self._n_taken >= _AHEAD_MAX

    def close_early(self) -> None:
        """Make reads beyond the received part of the body fail."""
        self._chunks.put(None)

    # -- in the application's thread --

    def take(self) -> bytes:
        """Wait for the next part; return b"" at the end, after which no call may follow.

        Raises:
            ClientDisconnected: the client has left before the end, or the request is over.
        """
        chunk = self._chunks.get()
        if chunk is None:
            # Left for the next read.
            self._chunks.put(None)
            raise self._error or ClientDisconnected(
                "the request's body is not complete: the client has left, or the request is over; "
                "nothing more will come"
            )
        self._n_taken += len(chunk)
        if self._waits_for_room:
            self._loop.call_soon_threadsafe(self._room.set)
        return chunk


class _Reader(io.RawIOBase):
    """A body as a raw file, for an `io.BufferedReader`."""

    def __init__(self, body: _Body) -> None:
        self._body = body
        self._rest = memoryview(b"")
        self._is_at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Read what has arrived, and wait only if that is nothing; return 0 at the body's end."""
        self._fill()
        with memoryview(buffer).cast("B") as into:
            n = min(len(into), len(self._rest))
            into[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n

    def readall(self) -> bytes:
        """Wait for the rest of the body, and return it."""
        taken = []
        while self._fill():
            taken.append(self._rest)
            self._rest = memoryview(b"")
        return b"".join(taken)

    def _fill(self) -> bool:
        """Wait until there is something to read; return False at the body's end."""
        if not self._rest and not self._is_at_end:
            self._rest = memoryview(self._body.take())
            self._is_at_end = not self._rest
        return not self._is_at_end
