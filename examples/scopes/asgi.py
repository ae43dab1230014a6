"""Scopes for any ASGI application: `cancel_on_disconnect` runs each request in one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import threadlets

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Connection = MutableMapping[str, Any]
Application = Callable[[Connection, Receive, Send], Awaitable[None]]


def cancel_on_disconnect(app: Application) -> Application:
    """Cancel the requests of `app` whose clients disconnect, with everything that they have started.

    The application is cancelled where it waits; scopes that it has opened, and what it has started
    in them, end before it does. What it does after its answer is complete is not cancelled, since
    servers report a disconnection then in any case.
    """

    async def application(connection: Connection, receive: Receive, send: Send) -> None:
        if connection["type"] == "http":
            await _Watched(app, connection, receive, send).answer()
        else:
            await app(connection, receive, send)

    return application


class _Watched:
    """One request: passes its messages on, and looks for the disconnection."""

    def __init__(
        self, app: Application, connection: Connection, receive: Receive, send: Send
    ) -> None:
        self._app = app
        self._connection = connection
        self._scope = threadlets.Scope(name=f"{connection['method']} {connection['path']}")
        self._receive_from_server = receive
        self._send_to_server = send
        # At most one message ahead of the application, so that no body piles up here.
        self._messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        self._is_answered = False
        self._is_over = False

    async def answer(self) -> None:
        error: Exception | None = None
        async with self._scope as scope:
            watch = scope.start(self._watch())
            try:
                await self._app(self._connection, self._receive, self._send)
            except Exception as raised:
                # Raised outside of the scope, which would put it into an exception group.
                error = raised
            watch.cancel()
        if error is not None:
            raise error

    async def _watch(self) -> None:
        while not self._is_over:
            message = await self._receive_from_server()
            if message["type"] == "http.disconnect":
                self._is_over = True
                if not self._is_answered:
                    self._scope.cancel("the client has disconnected")
            await self._messages.put(message)

    async def _receive(self) -> Message:
        if self._is_over and self._messages.empty():
            return {"type": "http.disconnect"}
        return await self._messages.get()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._is_answered = True
        await self._send_to_server(message)
