"""The ASGI middleware behind a real server, with clients that disconnect."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import asynccontextmanager
from typing import Any

import threadlets
import uvicorn
from serving import Address, client, encoded, rest, run, vanish
from waiting import eventually

from examples.scopes.asgi import Receive, Send, cancel_on_disconnect

_N_CLIENTS = 300
_BACKLOG = 1024


@asynccontextmanager
async def _served(app: Any) -> Any:
    """Serve an application; yield its address."""
    config = uvicorn.Config(
        app, loop="none", lifespan="off", log_level="error", ws="none", backlog=_BACKLOG
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await eventually(lambda: server.started)
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        await task
        listener.close()


def test_requests_of_clients_that_vanish_end_once() -> None:
    """Each is cancelled with what it has started, by a reset or a close; others are answered."""

    async def story() -> None:
        ends: Counter[str] = Counter()
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, it: reported.append(it))

        async def app(connection: Any, _receive: Receive, send: Send) -> None:
            path = connection["path"]
            if path != "/hello":
                try:
                    async with threadlets.Scope() as scope:
                        scope.start(threadlets.sleep(250))
                        await asyncio.sleep(250)
                finally:
                    ends[path] += 1
            headers = [(b"content-length", b"5")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"hello"})

        before = threadlets.ledger()
        async with _served(cancel_on_disconnect(app)) as address:
            idle = threadlets.ledger()
            clients = [client(address, _asked(f"/{n}")) for n in range(_N_CLIENTS)]
            await eventually(lambda: threadlets.ledger().waits == _N_CLIENTS)
            for n, sock in enumerate(clients):
                vanish(sock, by_reset=n % 2 == 0)
            assert (await _answer(address)).endswith(b"hello")
            await eventually(lambda: _outstanding() == (idle.tasks, 0, 0, idle.descriptors))
            assert ends == {f"/{n}": 1 for n in range(_N_CLIENTS)}
        await eventually(lambda: _outstanding() == (before.tasks, 0, 0, before.descriptors))
        assert [] == reported

    run(story)


def _asked(path: str, *headers: str) -> bytes:
    return encoded(path, "host: localhost", *headers)


async def _answer(address: Address) -> bytes:
    return await rest(client(address, _asked("/hello", "connection: close")))


def _outstanding() -> tuple[int, int, int, int]:
    ledger = threadlets.ledger()
    return ledger.tasks, ledger.calls, ledger.waits, ledger.descriptors
