"""The ASGI middleware, called directly, with small applications."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import threadlets
from serving import run

from examples.scopes.asgi import Application, Message, Receive, Send, cancel_on_disconnect

_START = {"type": "http.response.start", "status": 200, "headers": []}
_GET = {"type": "http", "method": "GET", "path": "/a"}


class _Visit:
    """One request, as a server makes it, with messages that the test sends."""

    def __init__(self, app: Application, connection: dict[str, Any] | None = None) -> None:
        self.sent: list[Message] = []
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        wrapped = cancel_on_disconnect(app)
        call = wrapped(connection or _GET, self._to_app.get, self._send)
        self.task = asyncio.ensure_future(call)

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            # Servers report a disconnect once the answer is complete.
            self.tell("http.disconnect")

    def tell(self, kind: str, **more: Any) -> None:
        self._to_app.put_nowait({"type": kind, **more})


def test_disconnect_cancels_all_that_the_request_has_started() -> None:
    """The application's waits and requests are cancelled with the reason, and none is left."""

    async def story() -> None:
        cancelled: list[str] = []
        began = asyncio.Event()

        async def wait(name: str) -> None:
            try:
                await asyncio.sleep(250)
            except asyncio.CancelledError as error:
                cancelled.append(f"{name}: {error}")
                raise

        async def app(_connection: Any, _receive: Receive, _send: Send) -> None:
            async with threadlets.Scope() as scope:
                scope.start(wait, "member")
                scope.start(threadlets.sleep(250))
                began.set()
                await wait("block")

        before = threadlets.ledger().tasks
        visit = _Visit(app)
        visit.tell("http.request", body=b"")
        await began.wait()
        visit.tell("http.disconnect")
        await visit.task
        reason = "scope 'GET /a' was cancelled: the client has disconnected"
        assert sorted(cancelled) == [f"block: {reason}", f"member: {reason}"]
        assert ([], before) == (visit.sent, threadlets.ledger().tasks)

    run(story)


def test_request_is_answered_while_the_client_stays() -> None:
    """The middleware changes nothing that the application sends."""

    async def story() -> None:
        async def app(_connection: Any, receive: Receive, send: Send) -> None:
            message = await receive()
            await send(_START)
            await send({"type": "http.response.body", "body": message["body"]})

        visit = _Visit(app)
        visit.tell("http.request", body=b"echo")
        await visit.task
        assert [_START, {"type": "http.response.body", "body": b"echo"}] == visit.sent

    run(story)


def test_body_is_read_no_faster_than_the_application_reads() -> None:
    """At most one piece waits in the middleware's queue, and one to be put there."""

    async def story() -> None:
        n_read = 0
        read_on = asyncio.Event()

        async def receive() -> Message:
            nonlocal n_read
            n_read += 1
            return {"type": "http.request", "body": b"x", "more_body": n_read < 10}

        async def app(_connection: Any, receive: Receive, _send: Send) -> None:
            await read_on.wait()
            body = b""
            while (message := await receive())["more_body"]:
                body += message["body"]
            assert 9 * b"x" == body

        async def send(_message: Message) -> None: ...

        task = asyncio.ensure_future(cancel_on_disconnect(app)(_GET, receive, send))
        for _ in range(10):
            await asyncio.sleep(0)
        assert n_read <= 2
        read_on.set()
        await task

    run(story)


def test_what_follows_the_answer_is_not_cancelled() -> None:
    """Servers send `http.disconnect` at the end of a complete answer as well."""

    async def story() -> None:
        ended = []

        async def app(_connection: Any, _receive: Receive, send: Send) -> None:
            await send(_START)
            await send({"type": "http.response.body", "body": b"done"})
            await asyncio.sleep(0.02)
            ended.append("after the answer")

        visit = _Visit(app)
        visit.tell("http.request", body=b"")
        await visit.task
        assert ["after the answer"] == ended

    run(story)


def test_disconnect_is_heard_after_the_answer_too() -> None:
    """The application gets a disconnect as often as it asks, as servers do it."""

    async def story() -> None:
        heard = []

        async def app(_connection: Any, receive: Receive, send: Send) -> None:
            await send(_START)
            await send({"type": "http.response.body", "body": b"done"})
            heard.extend([(await receive())["type"] for _ in range(4)])

        visit = _Visit(app)
        visit.tell("http.request", body=b"")
        await visit.task
        assert ["http.request"] + 3 * ["http.disconnect"] == heard

    run(story)


def test_failure_is_raised_as_it_is() -> None:
    """Code around the application expects its exceptions, not groups of them."""

    async def story() -> None:
        async def app(_connection: Any, _receive: Receive, _send: Send) -> None:
            raise LookupError("nothing there")

        visit = _Visit(app)
        visit.tell("http.request", body=b"")
        with pytest.raises(LookupError, match="nothing there"):
            await visit.task

    run(story)


def test_other_connections_pass() -> None:
    """Lifespan and websockets have their own ways to end, so they pass unchanged."""

    async def story() -> None:
        async def app(_connection: Any, receive: Receive, send: Send) -> None:
            await send(await receive())

        for kind in ("lifespan", "websocket"):
            visit = _Visit(app, {"type": kind})
            visit.tell("hello")
            await visit.task
            assert [{"type": "hello"}] == visit.sent

    run(story)
