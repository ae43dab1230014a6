"""The site's counters, and a stream of server-sent events that sends them."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass, field

from .http import Receive, Scope, Send

TICK_S = 1.0
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


@dataclass
class Counters:
    """Totals since the start; `n_listeners` and `n_chatters` are current numbers."""

    n_requests: int = 0
    n_errors: int = 0
    n_listeners: int = 0
    n_chatters: int = 0
    n_messages: int = 0
    started_s: float = field(default_factory=time.monotonic)

    def snapshot(self) -> dict[str, object]:
        values = asdict(self)
        values["uptime_s"] = round(time.monotonic() - values.pop("started_s"), 1)
        return values


async def stream_events(scope: Scope, receive: Receive, send: Send, counters: Counters) -> None:
    """Send the counters once a second until the client leaves or the server stops."""
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    leaving = asyncio.create_task(_client_left_or_server_stops(scope, receive))
    counters.n_listeners += 1
    try:
        n_event = 0
        while not leaving.done():
            n_event += 1
            data = json.dumps(counters.snapshot())
            event = f"id: {n_event}\nevent: counters\ndata: {data}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.wait((leaving,), timeout=TICK_S)
        await send({"type": "http.response.body", "body": b""})
    finally:
        counters.n_listeners -= 1
        leaving.cancel()


async def _client_left_or_server_stops(scope: Scope, receive: Receive) -> None:
    waits = [asyncio.create_task(_disconnected(receive))]
    # `threadlets serve` tells applications that it is about to stop; other servers may not.
    stopping = scope.get("state", {}).get("threadlets.stopping")
    if stopping is not None:
        waits.append(asyncio.create_task(stopping.wait()))
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
