"""A slow service that others depend on: it answers each line with one, some time later.

It can be a process of its own: ``python -m examples.scopes.upstream``.

It forgets a question as soon as its client has closed the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import zlib
from typing import Any

import threadlets

Address = tuple[str, int]


class UpstreamFailed(Exception):
    """A service has closed the connection without an answer."""


async def ask(address: Address, name: str, wait_s: float) -> Any:
    """Ask a service on a new connection, which is closed in any case."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(json.dumps({"name": name, "wait_s": wait_s}).encode() + b"\n")
        line = await reader.readline()
        if not line:
            raise UpstreamFailed(f"{address[0]}:{address[1]} gave no answer")
        return json.loads(line)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@dataclasses.dataclass
class UpstreamCounts:
    """Counts of a service's connections and questions."""

    open: int = 0
    answered: int = 0
    left: int = 0
    """Clients that closed the connection before they had their answer."""


class Upstream(asyncio.Protocol):
    """One connection to the service; it stands for a computation that takes `wait_s` seconds."""

    def __init__(self, counts: UpstreamCounts) -> None:
        self._counts = counts
        self._received = b""
        self._answering: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._counts.open += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        line, newline, self._received = self._received.partition(b"\n")
        if not newline:
            self._received = line
            return
        question = json.loads(line)
        if question.get("counts"):
            self._transport.write(json.dumps(dataclasses.asdict(self._counts)).encode() + b"\n")
            return
        loop = asyncio.get_running_loop()
        self._answering = loop.call_later(question["wait_s"], self._answer, question["name"])

    def connection_lost(self, exc: Exception | None) -> None:
        self._counts.open -= 1
        if self._answering is not None:
            self._answering.cancel()
            self._counts.left += 1

    def _answer(self, name: str) -> None:
        self._answering = None
        self._counts.answered += 1
        # A plausible number, the same each time for one name.
        self._transport.write(b"%d\n" % (zlib.crc32(name.encode()) % 100_000))


async def start_upstream(counts: UpstreamCounts, host: str = "127.0.0.1") -> asyncio.Server:
    """Serve on any free port."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Upstream(counts), host, 0, backlog=4096)


async def _main() -> None:
    async with await start_upstream(UpstreamCounts()) as server:
        print("Upstream on {}:{}".format(*server.sockets[0].getsockname()), flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        threadlets.run(_main())
