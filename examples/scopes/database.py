"""SQLite in threadlets: few queries at a time, which end early when they are cancelled.

A blocked function cannot be stopped from outside. SQLite can be asked to stop, by a handler that it
calls while it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import threadlets

Row = tuple[Any, ...]

# About a millisecond's work.
_STEPS_BETWEEN_CHECKS = 20_000


class Database:
    """A database that is only read. At most `limit` queries run at once; the others wait."""

    def __init__(self, path: Path, name: str, limit: int) -> None:
        self.n_stopped = 0
        """How many queries were cancelled while SQLite worked on them."""
        self._path = path
        self._pool = threadlets.Pool(name, limit)
        self._connections: list[sqlite3.Connection] = []

    async def query(self, statement: str, *parameters: Any) -> list[Row]:
        """Return all rows. When it is cancelled, it ends within a millisecond or so."""
        stop = threading.Event()
        async with threadlets.Scope(name="query") as scope:
            rows = scope.start(self._pool.call(self._rows, statement, parameters, stop))
            try:
                # Not `await rows`: its cancellation arrives only when the function has returned.
                await asyncio.wait((rows,))
            finally:
                stop.set()
        found: list[Row] = rows.result()
        return found

    def close(self) -> None:
        """Close all connections; no query may be running."""
        while self._connections:
            self._connections.pop().close()

    def _rows(self, statement: str, parameters: Row, stop: threading.Event) -> list[Row]:
        with self._connection() as connection:
            connection.set_progress_handler(stop.is_set, _STEPS_BETWEEN_CHECKS)
            try:
                return connection.execute(statement, parameters).fetchall()
            except sqlite3.OperationalError:
                if not stop.is_set():
                    raise
                self.n_stopped += 1
                return []
            finally:
                connection.set_progress_handler(None, 0)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection, which one thread uses at a time, but not always the same one."""
        if self._connections:
            connection = self._connections.pop()
        else:
            connection = sqlite3.connect(self._path, check_same_thread=False)
            connection.execute("PRAGMA query_only = 1")
        try:
            yield connection
        finally:
            self._connections.append(connection)
