"""What all applications share: notes in an SQLite database, a place where requests meet, and news."""

from __future__ import annotations

import hashlib
import os
import queue
import sqlite3
import threading

DATABASE = os.environ.get("HTTP_APPS_DATABASE", ":memory:")
#: How long a request waits for others, in seconds, before it fails.
PATIENCE_S = 20.0
#: How many requests have to wait at once until they go on.
N_MEETING = 12

meeting = threading.Barrier(N_MEETING)
news: queue.Queue[str] = queue.Queue()


def connect() -> sqlite3.Connection:
    """Open the database; the table is made when it is missing."""
    connection = sqlite3.connect(DATABASE, timeout=PATIENCE_S)
    connection.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT)")
    return connection


def add_note(text: str) -> dict[str, object]:
    """Insert a note, and return it."""
    connection = connect()
    try:
        with connection:
            added = connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))
        return {"id": added.lastrowid, "text": text}
    finally:
        connection.close()


def find_note(number: int) -> dict[str, object] | None:
    """Return a note, or None."""
    connection = connect()
    try:
        found = connection.execute("SELECT text FROM notes WHERE id = ?", (number,)).fetchone()
    finally:
        connection.close()
    return None if found is None else {"id": number, "text": found[0]}


def describe(title: str, name: str | None, data: bytes) -> dict[str, object]:
    """Return what an upload is answered with."""
    digest = hashlib.sha256(data).hexdigest()
    return {"title": title, "name": name, "size": len(data), "sha256": digest}


def part(number: int) -> bytes:
    """Return a part of a streamed response."""
    return b"%06d %s\n" % (number, b"x" * 1000)
