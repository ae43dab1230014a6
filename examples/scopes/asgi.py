"""The same for any ASGI application: `cancel_on_disconnect` runs each request in a scope."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import threadlets

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def cancel_on_disconnect(app: Application) -> Application:
    """Cancel the requests of `app` whose clients disconnect, with all that they have started.

    The application is cancelled where it waits. Scopes that it opens, and what it starts in them, end first. What it
    does after its answer is complete goes on: then nobody can disconnect any more.
    """

    async def application(
        connection: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        if connection["type"] != "http":
            await app(connection, receive, send)
            return
        async with threadlets.Scope(name=f"{connection['method']} {connection['path']}") as scope:
            # One message ahead of the application: a body is not piled up here.
            messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
            watch = scope.start(_watch(scope, receive, messages))

            async def watched_send(message: Message) -> None:
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    watch.cancel()
                await send(message)

            await app(connection, messages.get, watched_send)
            watch.cancel()

    return application


async def _watch(
    scope: threadlets.Scope, receive: Receive, messages: asyncio.Queue[Message]
) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            scope.cancel("the client has disconnected")
            return
        await messages.put(message)
