"""Keep-alive HTTP clients for load: encoded requests, a minimal parser, latencies per endpoint.

The parser understands only the site's own responses, which have a content-length or no body.
"""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\ncontent-length: "


@dataclass
class Endpoint:
    """One row of the report: its requests, their share of the load, and their results."""

    name: str
    share: float
    requests: list[bytes]
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    n_errors: int = 0


@dataclass
class Problems:
    """Errors, counted by kind."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1


def encode_get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode()


class Browser(asyncio.Protocol):
    """One visitor: sends a request, reads the whole answer, pauses for a while, and repeats that."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        choose: Callable[[], Endpoint],
        think_s: float,
        chance: random.Random,
        problems: Problems,
    ) -> None:
        self._loop = loop
        self._choose = choose
        self._think_s = think_s
        self._chance = chance
        self._problems = problems
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._n_awaited = 0
        self._asked_s = 0.0
        self._endpoint: Endpoint | None = None
        self._thinking: asyncio.TimerHandle | None = None
        self._is_leaving = False

    @property
    def is_waiting(self) -> bool:
        """Whether a request does not have its complete answer yet."""
        return self._endpoint is not None

    def start(self) -> None:
        """Begin after a part of the thinking time, so that visitors do not all ask at once."""
        delay_s = self._chance.uniform(0, self._think_s)
        self._thinking = self._loop.call_later(delay_s, self._ask)

    def stop_asking(self) -> None:
        self._is_leaving = True
        if self._thinking is not None:
            self._thinking.cancel()

    def leave(self) -> None:
        """Close the connection; an answer that is still awaited counts as an error."""
        self.stop_asking()
        if self._endpoint is not None:
            self._fail("unanswered at the end")
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        if not self._n_awaited and not self._read_head():
            return
        if len(received) >= self._n_awaited:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._endpoint is not None:
            self._fail(f"connection lost: {exc or 'closed by the server'}")
        elif not self._is_leaving:
            self._problems.add("idle connection lost")
        self.stop_asking()

    def _ask(self) -> None:
        if self._transport is None:
            return
        self._endpoint = endpoint = self._choose()
        self._asked_s = self._loop.time()
        self._transport.write(self._chance.choice(endpoint.requests))

    def _read_head(self) -> bool:
        head_end = self._received.find(_HEAD_END)
        if head_end < 0:
            return False
        length = self._received.find(_LENGTH, 0, head_end)
        n_body = 0
        if length >= 0:
            start = length + len(_LENGTH)
            line_end = self._received.find(b"\r", start)
            n_body = int(self._received[start:line_end])
        self._n_awaited = head_end + len(_HEAD_END) + n_body
        return True

    def _finish(self) -> None:
        endpoint = self._endpoint
        if endpoint is None or len(self._received) != self._n_awaited:
            self._problems.add("unexpected bytes")
            return
        status = bytes(self._received[9:12])
        if status in (b"200", b"304"):
            endpoint.latencies_s.append(self._loop.time() - self._asked_s)
            self._endpoint = None
        else:
            self._fail(f"status {status.decode('latin-1')}")
        self._received.clear()
        self._n_awaited = 0
        if not self._is_leaving:
            # Exponential, as for independent visitors, but cut off before the keep-alive ends.
            delay_s = min(self._chance.expovariate(1.0), 4.0) * self._think_s
            self._thinking = self._loop.call_later(delay_s, self._ask)

    def _fail(self, kind: str) -> None:
        assert self._endpoint is not None, "a failure belongs to a request"
        self._endpoint.n_errors += 1
        self._endpoint = None
        self._problems.add(kind)
