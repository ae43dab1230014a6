"""A Starlette application of plain functions: quick, blocking, waiting for SQLite, and reading.

Start it with ``threadlets serve examples.frameworks.starlette_app:app``. The server makes threadlets
of the `def` endpoints; nothing here asks for it. FastAPI's endpoints and dependencies are run in the same way.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TypedDict

import threadlets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Route

_SECONDS_MAX = 10.0


class State(TypedDict):
    """What lives as long as the server."""

    database: Path


def hello(_request: Request) -> JSONResponse:
    """Answer at once, on the thread that the loop runs on, without a hand-over."""
    return JSONResponse({"hello": "world", "thread": threading.current_thread().name})


def slow(request: Request) -> JSONResponse:
    """Block for `?seconds=`; meanwhile another thread runs the loop."""
    seconds = min(float(request.query_params.get("seconds", "1")), _SECONDS_MAX)
    time.sleep(seconds)
    return JSONResponse({"slept": seconds, "thread": threading.current_thread().name})


def visits(request: Request) -> JSONResponse:
    """Count the visitors in SQLite. The connection is the call's own, so any thread will do."""
    with closing(sqlite3.connect(request.state.database)) as connection, connection:
        connection.execute("UPDATE visits SET n = n + 1")
        (n,) = connection.execute("SELECT n FROM visits").fetchone()
    return JSONResponse({"visits": n})


def source(_request: Request) -> FileResponse:
    """Send this file; Starlette reads it through anyio, so in threadlets."""
    return FileResponse(__file__, media_type="text/plain")


async def stats(_request: Request) -> JSONResponse:
    """Return what the loop's threadlets have done: take-overs, threads, blocked functions."""
    return JSONResponse(threadlets.stats())


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[State]:
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "visits.sqlite3"
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE visits (n INTEGER)")
            connection.execute("INSERT INTO visits VALUES (0)")
        yield {"database": database}


app = Starlette(
    routes=[
        Route("/", hello),
        Route("/slow", slow),
        Route("/visits", visits),
        Route("/source", source),
        Route("/stats", stats),
    ],
    lifespan=lifespan,
)
