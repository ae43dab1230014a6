"""A Litestar application on sqlite3, with handlers on threads and on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

import store
from litestar import Litestar, WebSocket, get, post, websocket
from litestar.datastructures import State, UploadFile
from litestar.enums import RequestEncodingType
from litestar.exceptions import NotFoundException, WebSocketDisconnect
from litestar.params import Body
from litestar.response import ServerSentEvent, Stream


@dataclass
class NewNote:
    text: str


@dataclass
class Upload:
    title: str
    file: UploadFile


@post("/notes", sync_to_thread=True)
def add_note(data: NewNote) -> dict[str, Any]:
    return store.add_note(data.text)


@get("/notes/{number:int}", sync_to_thread=True)
def find_note(number: int) -> dict[str, Any]:
    note = store.find_note(number)
    if note is None:
        raise NotFoundException("there is no such note")
    return note


@post("/upload", status_code=200)
async def upload(
    data: Annotated[Upload, Body(media_type=RequestEncodingType.MULTI_PART)],
) -> dict[str, Any]:
    return store.describe(data.title, data.file.filename, await data.file.read())


@get("/stream")
async def stream(n: int) -> Stream:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(n):
            yield store.part(number)

    return Stream(parts(), media_type="text/plain")


@get("/events")
async def events(state: State) -> ServerSentEvent:
    async def found() -> AsyncIterator[str]:
        yield "begin"
        yield await state.news.get()

    return ServerSentEvent(found())


@post("/publish", status_code=200)
async def publish(data: NewNote, state: State) -> None:
    state.news.put_nowait(data.text)


@get("/meet", sync_to_thread=True)
def meet() -> str:
    store.meeting.wait(store.PATIENCE_S)
    return "met"


@websocket("/echo")
async def echo(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept(subprotocols="echo" if "echo" in socket.scope["subprotocols"] else None)
    try:
        while True:
            message = await socket.receive()
            if message["type"] != "websocket.receive":
                break
            text = message.get("text")
            if text is not None:
                await socket.send_text(text)
            else:
                await socket.send_bytes(message["bytes"])
    except WebSocketDisconnect:
        pass


async def begin(app: Litestar) -> None:
    app.state.news = asyncio.Queue()


app = Litestar(
    [add_note, find_note, upload, stream, events, publish, meet, echo],
    on_startup=[begin],
    request_max_body_size=None,
)
