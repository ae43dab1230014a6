"""A FastAPI application on SQLAlchemy, most of whose endpoints are plain functions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import store
from fastapi import Depends, FastAPI, File, Form, HTTPException, UploadFile, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.websockets import WebSocketDisconnect

engine = create_engine(f"sqlite:///{store.DATABASE}", connect_args={"timeout": store.PATIENCE_S})


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class NewNote(BaseModel):
    text: str


class StoredNote(NewNote):
    id: int


Base.metadata.create_all(engine)
app = FastAPI()


def session() -> Iterator[Session]:
    with Session(engine) as made:
        yield made


Database = Annotated[Session, Depends(session)]


@app.post("/notes", status_code=201)
def add_note(new: NewNote, database: Database) -> StoredNote:
    note = Note(text=new.text)
    database.add(note)
    database.commit()
    return StoredNote(id=note.id, text=note.text)


@app.get("/notes/{number}")
def find_note(number: int, database: Database) -> StoredNote:
    note = database.scalars(select(Note).where(Note.id == number)).first()
    if note is None:
        raise HTTPException(404, "there is no such note")
    return StoredNote(id=note.id, text=note.text)


@app.post("/upload")
def upload(file: Annotated[UploadFile, File()], title: Annotated[str, Form()]) -> dict[str, object]:
    return store.describe(title, file.filename, file.file.read())


@app.get("/stream")
def stream(n: int) -> StreamingResponse:
    return StreamingResponse((store.part(number) for number in range(n)), media_type="text/plain")


@app.get("/events")
def events() -> StreamingResponse:
    def lines() -> Iterator[str]:
        yield "data: begin\n\n"
        yield f"data: {store.news.get(timeout=store.PATIENCE_S)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@app.post("/publish")
async def publish(new: NewNote) -> None:
    store.news.put(new.text)


@app.get("/meet")
def meet() -> str:
    store.meeting.wait(store.PATIENCE_S)
    return "met"


@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept(subprotocol="echo" if "echo" in socket.scope["subprotocols"] else None)
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        while True:
            message = await socket.receive()
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])
