"""A FastAPI service under load: half of its requests block, half are suspended in greenlets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

for package in ("fastapi", "sqlalchemy", "aiosqlite", "greenlet", "uvicorn"):
    pytest.importorskip(package, reason=f"{package} is not installed")

N_REQUESTS = 10_000
N_CONNECTIONS = 64
DEADLINE_S = 100.0


class Connection:
    """A client's keep-alive connection; each request is sent after the answer to the one before."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def get(self, path: str) -> tuple[int, Any]:
        """Return the status, and the decoded body if the status is 200."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: load\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        (length,) = (line for line in lines if line.startswith("content-length:"))
        body = await self._reader.readexactly(int(length.partition(":")[2]))
        status = int(lines[0].split()[1])
        return status, json.loads(body) if status == 200 else body

    def close(self) -> None:
        self._writer.close()


def expected(number: int) -> tuple[str, Any]:
    """Return the path of a request, and the expected answer."""
    if number % 2:
        return f"/report/{number}", {"report": number}
    return f"/rows/{number}", [number, f"word {number % 100}", 100]


async def put_load(address: str) -> dict[str, Any]:
    """Send all requests; return the wrong answers and the service's statistics."""
    url = urlsplit(address)
    wrong: list[Any] = []

    async def ask(numbers: Iterator[int]) -> None:
        connection = Connection(*await asyncio.open_connection(url.hostname, url.port))
        for number in numbers:
            path, answer = expected(number)
            got = await connection.get(path)
            if got != (200, answer):
                wrong.append((path, got))
        connection.close()

    async with asyncio.timeout(DEADLINE_S):
        numbers = iter(range(N_REQUESTS))
        await asyncio.gather(*(ask(numbers) for _ in range(N_CONNECTIONS)))
        connection = Connection(*await asyncio.open_connection(url.hostname, url.port))
        _, stats = await connection.get("/stats")
        connection.close()
    return {"wrong": wrong, "stats": stats}


def test_every_request_is_answered_and_the_loop_stays(serve_example: Callable[..., str]) -> None:
    """All answers are right, and fewer than one of a hundred blocking functions moves the role."""
    address = serve_example("tests.frameworks.load_service:app", "--no-access-log")
    outcome = asyncio.run(put_load(address))
    assert [] == outcome["wrong"]
    counts = outcome["stats"].items()
    n_moves = sum(count for name, count in counts if name.startswith("takeovers_"))
    assert n_moves < N_REQUESTS / 2 / 100
