"""aiosqlite: one thread per connection, which answers through call_soon_threadsafe."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

aiosqlite = pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")


def test_rows_come_back(run: Any) -> None:
    """A thousand rows are inserted, and read with a cursor and by an aggregate."""

    async def main() -> tuple[list[tuple[int, str]], int]:
        async with aiosqlite.connect(":memory:") as db:
            await db.execute("CREATE TABLE word (n INTEGER PRIMARY KEY, text TEXT)")
            rows = ((n, f"word {n}") for n in range(1000))
            await db.executemany("INSERT INTO word VALUES (?, ?)", rows)
            await db.commit()
            async with db.execute("SELECT * FROM word WHERE n % 250 = 0 ORDER BY n") as cursor:
                found = [row async for row in cursor]
            async with db.execute("SELECT count(*) FROM word") as cursor:
                (count,) = await cursor.fetchone()
            return found, count

    found, count = run(main())
    assert found == [(n, f"word {n}") for n in (0, 250, 500, 750)]
    assert 1000 == count


def test_a_rollback_forgets(run: Any, tmp_path: Path) -> None:
    """Another connection sees what was committed and not what was rolled back."""

    async def main() -> list[tuple[str]]:
        path = tmp_path / "db"
        async with aiosqlite.connect(path) as writer, aiosqlite.connect(path) as reader:
            await writer.execute("CREATE TABLE word (text TEXT)")
            await writer.execute("INSERT INTO word VALUES ('kept')")
            await writer.commit()
            await writer.execute("INSERT INTO word VALUES ('forgotten')")
            await writer.rollback()
            rows: list[tuple[str]] = list(await reader.execute_fetchall("SELECT * FROM word"))
            return rows

    assert [("kept",)] == run(main())


def test_an_error_crosses_the_thread(run: Any) -> None:
    """SQLite's exception reaches the awaiting task, and the connection can still be used."""

    async def main() -> tuple[int]:
        async with aiosqlite.connect(":memory:") as db:
            with pytest.raises(sqlite3.OperationalError, match="no such table: nowhere"):
                await db.execute("SELECT * FROM nowhere")
            async with db.execute("SELECT 1 + 1") as cursor:
                row: tuple[int] = await cursor.fetchone()
                return row

    assert (2,) == run(main())


def test_many_connections_answer_at_once(run: Any) -> None:
    """Twenty threads wake one loop, two hundred times each."""

    async def count_on_own_connection(n: int) -> int:
        async with aiosqlite.connect(":memory:") as db:
            total = 0
            for k in range(200):
                async with db.execute("SELECT ? + ?", (n, k)) as cursor:
                    (value,) = await cursor.fetchone()
                    total += value
            return total

    async def main() -> list[int]:
        return await asyncio.gather(*(count_on_own_connection(n) for n in range(20)))

    assert run(main()) == [200 * n + sum(range(200)) for n in range(20)]
