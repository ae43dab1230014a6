"""The catalogue: an SQLite file built once from the standard library, then only read.

Each query is an index look-up of some tens of microseconds, so it runs on the loop. The connection
is used on whichever thread runs the loop, by one request at a time.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from pathlib import Path

from .harvest import standard_library

_SCHEMA = """
CREATE TABLE modules (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, origin TEXT NOT NULL,
    summary TEXT NOT NULL, n_lines INTEGER NOT NULL, n_members INTEGER NOT NULL
);
CREATE TABLE members (
    id INTEGER PRIMARY KEY, module_id INTEGER NOT NULL REFERENCES modules (id),
    name TEXT NOT NULL, kind TEXT NOT NULL, signature TEXT NOT NULL, summary TEXT NOT NULL
);
CREATE INDEX members_of_module ON members (module_id);
CREATE VIRTUAL TABLE words USING fts5 (
    name, module, summary, prefix = '2 3', tokenize = "unicode61 separators '_.'"
);
"""
_SEARCH = """
SELECT members.name, modules.name, members.kind, members.signature, members.summary
FROM words JOIN members ON members.id = words.rowid JOIN modules ON modules.id = members.module_id
WHERE words MATCH ? LIMIT ?
"""
_MEMBERS = "SELECT name, kind, signature, summary FROM members WHERE module_id = ? LIMIT ?"
_WORDS_MAX = 8


class Catalogue:
    """The open database."""

    def __init__(self, path: Path) -> None:
        # While a threadlet is blocked, requests run on another thread, still one at a time.
        self._connection = sqlite3.connect(path, check_same_thread=False)
        try:
            self._connection.execute("PRAGMA query_only = 1")
            # SQLite reads nothing before the first query: check now that the file is a catalogue.
            self.counts()
        except sqlite3.Error:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def counts(self) -> dict[str, int]:
        row = self._connection.execute("SELECT count(*), sum(n_members) FROM modules").fetchone()
        return {"modules": row[0], "members": row[1]}

    def modules(self, *, offset: int, limit: int) -> list[dict[str, object]]:
        """List modules in the order of their names."""
        rows = self._connection.execute(
            "SELECT name, origin, summary, n_lines, n_members FROM modules"
            " ORDER BY name LIMIT ? OFFSET ?",
            (limit, offset),
        )
        return [_module(row) for row in rows]

    def module(self, name: str, *, members_max: int = 50) -> dict[str, object] | None:
        """Describe one module with its first members; None when there is no such module."""
        row = self._connection.execute(
            "SELECT name, origin, summary, n_lines, n_members, id FROM modules WHERE name = ?",
            (name,),
        ).fetchone()
        if row is None:
            return None
        members = self._connection.execute(_MEMBERS, (row[5], members_max))
        keys = ("name", "kind", "signature", "summary")
        return _module(row) | {
            "members": [dict(zip(keys, member, strict=True)) for member in members]
        }

    def search(self, text: str, *, limit: int = 20) -> list[dict[str, str]]:
        """Find members by the beginnings of the words in their names, modules and summaries."""
        words = "".join(letter if letter.isalnum() else " " for letter in text).split()
        if not words:
            return []
        # Quoted, since AND, OR and NEAR would be operators of the search language.
        expression = " ".join(f'"{word}"*' for word in words[:_WORDS_MAX])
        keys = ("name", "module", "kind", "signature", "summary")
        rows = self._connection.execute(_SEARCH, (expression, limit))
        return [dict(zip(keys, row, strict=True)) for row in rows]


def open_catalogue(path: Path | None = None) -> Catalogue:
    """Open the catalogue, building it first when there is none (some seconds)."""
    path = path or default_path()
    if not path.exists():
        _build(path)
    return Catalogue(path)


def default_path() -> Path:
    """Return one file per Python version, in the user's cache; SITE_DATABASE names another."""
    if chosen := os.environ.get("SITE_DATABASE"):
        return Path(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = ".".join(map(str, sys.version_info[:3]))
    return cache / "threadlets" / f"site-catalogue-{version}.sqlite3"


def _build(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Built in a temporary folder and renamed: an interrupted start leaves no partial catalogue.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        connection = sqlite3.connect(unfinished)
        try:
            _fill(connection)
        finally:
            connection.close()
        unfinished.replace(path)


def _fill(connection: sqlite3.Connection) -> None:
    connection.executescript(_SCHEMA)
    with connection:
        for module in standard_library():
            columns = (
                module.name, module.origin, module.summary, module.n_lines, len(module.members)
            )  # fmt: skip
            module_id = connection.execute(
                "INSERT INTO modules (name, origin, summary, n_lines, n_members)"
                " VALUES (?, ?, ?, ?, ?)",
                columns,
            ).lastrowid
            connection.executemany(
                "INSERT INTO members (module_id, name, kind, signature, summary)"
                " VALUES (?, ?, ?, ?, ?)",
                [(module_id, m.name, m.kind, m.signature, m.summary) for m in module.members],
            )
        connection.execute(
            "INSERT INTO words (rowid, name, module, summary)"
            " SELECT members.id, members.name, modules.name, members.summary"
            " FROM members JOIN modules ON modules.id = members.module_id"
        )


def _module(row: tuple[object, ...]) -> dict[str, object]:
    keys = ("name", "origin", "summary", "n_lines", "n_members")
    return dict(zip(keys, row[:5], strict=True))
