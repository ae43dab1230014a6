"""The site in-process: ASGI calls made directly, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.site.app import Site

DEADLINE_S = 20.0

Message = MutableMapping[str, Any]


@dataclass
class Answer:
    """A complete response."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Conversation:
    """One ASGI call, and the messages from the server to the application and back."""

    def __init__(self, site: Site, scope: Message) -> None:
        self.scope = scope
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self.task = asyncio.ensure_future(site(scope, self._to_app.get, self._from_app.put))

    def tell(self, **message: Any) -> None:
        self._to_app.put_nowait(message)

    async def hear(self, kind: str) -> Message:
        """Wait for the application's next message, which must be of this kind."""
        async with asyncio.timeout(DEADLINE_S):
            message = await self._from_app.get()
        assert kind == message["type"], message
        return message

    async def end(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.task


def new_scope(kind: str, path: str, query: str = "", **more: Any) -> Message:
    return {"type": kind, "path": path, "query_string": query.encode(), "headers": [], **more}


async def get(
    site: Site, path: str, query: str = "", *, method: str = "GET", **headers: str
) -> Answer:
    """Make one request and collect its whole answer."""
    scope = new_scope("http", path, query, method=method)
    scope["headers"] = [
        (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
    ]
    talk = Conversation(site, scope)
    start = await talk.hear("http.response.start")
    body = await talk.hear("http.response.body")
    await talk.end()
    return Answer(start["status"], dict(start["headers"]), body["body"])


@asynccontextmanager
async def living(database: Path | None) -> AsyncIterator[Site]:
    """Start the site up as a server does, and shut it down."""
    site = Site(database)
    lifespan = Conversation(site, new_scope("lifespan", ""))
    lifespan.tell(type="lifespan.startup")
    await lifespan.hear("lifespan.startup.complete")
    yield site
    lifespan.tell(type="lifespan.shutdown")
    await lifespan.hear("lifespan.shutdown.complete")
    await lifespan.end()


Visit = Callable[[Callable[[Site], Awaitable[None]]], None]
