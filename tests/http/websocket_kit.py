"""Serves applications with websockets within a loop, for tests that look at both sides."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import threadlets
from threadlets.http import serve
from websockets.asyncio.client import ClientConnection, connect

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

_LIMIT_S = 30.0


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a loop of threadlets, for a limited time."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(_LIMIT_S):
                await test(*args, **kwargs)

        threadlets.run(main())

    return run


@contextlib.asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[tuple[str, int]]:
    """Serve an application within the loop; gives the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ready = asyncio.Event()
        settings = {"access_log": None, "lifespan": "off", **options}
        task = asyncio.create_task(
            serve(app, sockets=[listener], on_ready=lambda _: ready.set(), **settings)
        )
        await ready.wait()
        try:
            yield listener.getsockname()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def connected(
    app: Any, path: str = "/", *, client: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[ClientConnection]:
    """Serve an application, and connect to it by the package `websockets`."""
    async with (
        serving(app, **options) as (host, port),
        connect(f"ws://{host}:{port}{path}", **(client or {})) as websocket,
    ):
        yield websocket
