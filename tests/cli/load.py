"""A small load: clients that keep their connections, and clients that make a new one for each request."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator


class Load:
    """Requests without a pause, until `stop`; what went wrong is in `failures`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_stopped = False
        #: How often each body was the answer.
        self.answers: Counter[str] = Counter()
        #: How many connections the server has asked to close.
        self.n_closes = 0
        self.failures: list[str] = []

    def has_answers(self, n_wanted: int) -> bool:
        """Return whether so many requests have been answered."""
        return self.answers.total() >= n_wanted

    async def _client(self, *, keeps: bool) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        while not self._is_stopped:
            try:
                async with asyncio.timeout(20):
                    if reader is None or writer is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                    writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    fields = dict(
                        line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:-2]
                    )
                    body = await reader.readexactly(int(fields["content-length"]))
                assert head.startswith(b"HTTP/1.1 200 "), head
                self.answers[body.decode()] += 1
            except (OSError, EOFError, AssertionError, TimeoutError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                fields = {"connection": "close"}
            is_closed = fields.get("connection") == "close"
            self.n_closes += is_closed
            if writer is not None and (is_closed or not keeps):
                writer.close()
                reader = writer = None
        if writer is not None:
            writer.close()

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, port: int, *, n_clients: int = 4) -> AsyncIterator[Load]:
        """Load a server for the time of the block, with as many clients of each kind."""
        load = cls(port)
        async with asyncio.TaskGroup() as clients:
            for number in range(2 * n_clients):
                clients.create_task(load._client(keeps=number % 2 == 0))
            try:
                yield load
            finally:
                load._is_stopped = True
