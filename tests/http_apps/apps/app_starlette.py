"""A Starlette application on aiosqlite."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiosqlite
import store
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

done: list[str] = []


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    async with aiosqlite.connect(store.DATABASE) as connection:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT)"
        )
        yield {"connection": connection, "news": asyncio.Queue[str]()}


async def add_note(request: Request) -> Response:
    text = (await request.json())["text"]
    connection = request.state.connection
    added = await connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))
    await connection.commit()
    task = BackgroundTask(done.append, text)
    return JSONResponse({"id": added.lastrowid, "text": text}, 201, background=task)


async def find_note(request: Request) -> Response:
    number = request.path_params["number"]
    query = "SELECT text FROM notes WHERE id = ?"
    async with request.state.connection.execute(query, (number,)) as cursor:
        found = await cursor.fetchone()
    if found is None:
        return JSONResponse({"detail": "there is no such note"}, 404)
    return JSONResponse({"id": number, "text": found[0]})


async def upload(request: Request) -> Response:
    async with request.form() as form:
        file = form["file"]
        assert not isinstance(file, str)
        return JSONResponse(store.describe(str(form["title"]), file.filename, await file.read()))


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(int(request.query_params["n"])):
            yield store.part(number)

    return StreamingResponse(parts(), media_type="text/plain")


async def events(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        yield "data: begin\n\n"
        yield f"data: {await request.state.news.get()}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


async def publish(request: Request) -> Response:
    request.state.news.put_nowait((await request.json())["text"])
    return PlainTextResponse("")


def meet(request: Request) -> Response:
    store.meeting.wait(store.PATIENCE_S)
    return PlainTextResponse("met")


async def tasks_done(request: Request) -> Response:
    return JSONResponse(done)


async def echo(socket: WebSocket) -> None:
    await socket.accept(subprotocol="echo" if "echo" in socket.scope["subprotocols"] else None)
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                break
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])


app = Starlette(
    routes=[
        Route("/notes", add_note, methods=["POST"]),
        Route("/notes/{number:int}", find_note),
        Route("/upload", upload, methods=["POST"]),
        Route("/stream", stream),
        Route("/events", events),
        Route("/publish", publish, methods=["POST"]),
        Route("/meet", meet),
        Route("/tasks", tasks_done),
        WebSocketRoute("/echo", echo),
    ],
    lifespan=lifespan,
)
