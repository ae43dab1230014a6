"""A Flask application on sqlite3."""

from __future__ import annotations

from collections.abc import Iterator

import store
from flask import Flask, Response, request, stream_with_context
from flask.typing import ResponseReturnValue

app = Flask(__name__)


@app.post("/notes")
def add_note() -> ResponseReturnValue:
    return store.add_note(request.get_json()["text"]), 201


@app.get("/notes/<int:number>")
def find_note(number: int) -> ResponseReturnValue:
    note = store.find_note(number)
    return ({"detail": "there is no such note"}, 404) if note is None else (note, 200)


@app.post("/upload")
def upload() -> ResponseReturnValue:
    file = request.files["file"]
    return store.describe(request.form["title"], file.filename, file.read())


@app.get("/stream")
def stream() -> ResponseReturnValue:
    @stream_with_context
    def parts() -> Iterator[bytes]:
        for number in range(int(request.args["n"])):
            yield store.part(number)

    return Response(parts(), mimetype="text/plain")


@app.get("/events")
def events() -> ResponseReturnValue:
    def lines() -> Iterator[str]:
        yield "data: begin\n\n"
        yield f"data: {store.news.get(timeout=store.PATIENCE_S)}\n\n"

    return Response(lines(), mimetype="text/event-stream")


@app.post("/publish")
def publish() -> ResponseReturnValue:
    store.news.put(request.get_json()["text"])
    return ""


@app.get("/meet")
def meet() -> ResponseReturnValue:
    store.meeting.wait(store.PATIENCE_S)
    return "met"
