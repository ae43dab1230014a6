"""ASGI applications at the corners of the specification, by path."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain")],
}
END = {"type": "http.response.body"}
DATA = bytes(range(256)) * 1000

#: What has happened, for tests to ask for.
events: list[str] = []
published = asyncio.Event()


async def answer(send: Send, body: bytes) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": body})


async def _errors(send: Send, *messages: dict[str, Any]) -> str:
    names = []
    for message in messages:
        try:
            await send(message)
        except Exception as error:
            names.append(type(error).__name__)
        else:
            names.append("sent")
    return " ".join(names)


async def out_of_order(scope: Scope, receive: Receive, send: Send) -> None:
    """Messages that have no place here, or no sense; then the response."""
    before = await _errors(
        send,
        END,
        {"type": "http.response.trailers", "headers": []},
        {"type": "http.response.pathsend", "path": __file__},
        {"type": "http.response.unknown"},
        {"type": "websocket.accept"},
        {},
        {"type": "http.response.start"},
        {"type": "http.response.start", "status": "x"},
        {"type": "http.response.start", "status": 99},
        {"type": "http.response.start", "status": 200, "headers": [(b"a b", b"")]},
        {"type": "http.response.start", "status": 200, "headers": [(b"a", b"1\r\nb: 2")]},
        {"type": "http.response.start", "status": 200, "headers": [("a", "b")]},
    )
    await send(START)
    within = await _errors(
        send,
        START,
        {"type": "http.response.body", "body": "text", "more_body": True},
        {"type": "http.response.trailers", "headers": []},
    )
    body = f"{before}|{within}".encode()
    await send({"type": "http.response.body", "body": body})
    events.append(await _errors(send, END, START))


async def fails_before(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("on purpose, before")


async def fails_after_start(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    raise RuntimeError("on purpose, after the start")


async def fails_within(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": b"begin", "more_body": True})
    await asyncio.sleep(0.01)
    raise RuntimeError("on purpose, within")


async def fails_afterwards(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"whole")
    raise RuntimeError("on purpose, afterwards")


async def returns_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def returns_early(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": b"begin", "more_body": True})


async def goes_on(scope: Scope, receive: Receive, send: Send) -> None:
    """Work after the response, as Starlette's background tasks do."""
    await answer(send, b"sent")
    try:
        await published.wait()
    except asyncio.CancelledError:
        events.append("cancelled afterwards")
        raise
    events.append("went on")


async def publish(scope: Scope, receive: Receive, send: Send) -> None:
    published.set()
    await answer(send, b"")


async def waits(scope: Scope, receive: Receive, send: Send) -> None:
    """Do not listen for the client's end."""
    events.append("waits")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        events.append("cancelled")
        raise


async def listens(scope: Scope, receive: Receive, send: Send) -> None:
    """Listen for the client's end, and live on."""
    events.append("listens")
    while (message := await receive())["type"] == "http.request":
        pass
    again = await receive()
    events.append(f"{message['type']} {again['type']}")
    with contextlib.suppress(OSError):
        await send(START)
        await send(END)
    events.append("lives on")


async def streams(scope: Scope, receive: Receive, send: Send) -> None:
    """Stream without end, and ask in between whether the client is there, as Starlette does."""

    async def is_disconnected() -> bool:
        try:
            async with asyncio.timeout(0):
                return (await receive())["type"] == "http.disconnect"
        except TimeoutError:
            return False

    assert "http.request" == (await receive())["type"]
    await send(START)
    with contextlib.suppress(OSError):
        while not await is_disconnected():
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            await asyncio.sleep(0.001)
    events.append("noticed")


async def two_listen(scope: Scope, receive: Receive, send: Send) -> None:
    """Two tasks listen for the client's end, and one of them is cancelled."""
    assert "http.request" == (await receive())["type"]

    async def listen() -> str:
        return str((await receive())["type"])

    first, second, third = (asyncio.create_task(listen()) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    events.append("two listen")
    events.append(" and ".join(await asyncio.gather(first, third)))


async def sends_blindly(scope: Scope, receive: Receive, send: Send) -> None:
    """Listen elsewhere, and learn from `send` that the client has left."""
    assert "http.request" == (await receive())["type"]
    listening = asyncio.ensure_future(receive())
    await send(START)
    try:
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            await asyncio.sleep(0)
    except OSError as error:
        events.append(f"send raised {type(error).__name__}")
        raise RuntimeError("this is the client's doing") from error
    finally:
        listening.cancel()


async def hogs(scope: Scope, receive: Receive, send: Send) -> None:
    """Send many parts without ever waiting for anything else."""
    await send(START)
    is_set = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, is_set.set)
    while not is_set.is_set():
        await send({"type": "http.response.body", "body": b"", "more_body": True})
    await send({"type": "http.response.body", "body": b"others ran"})


async def head_first(scope: Scope, receive: Receive, send: Send) -> None:
    """Have the head sent by an empty part."""
    await send(START)
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    await published.wait()
    await send({"type": "http.response.body", "body": b"later"})


async def uploads(scope: Scope, receive: Receive, send: Send) -> None:
    """Take a body slowly, and note how much is taken."""
    n_bytes = n_messages = 0
    largest = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            events.append("upload broke off")
            return
        n_bytes += len(message["body"])
        largest = max(largest, len(message["body"]))
        n_messages += 1
        if not message["more_body"]:
            break
    await answer(send, b"%d %d" % (n_bytes, largest))


async def upload_with_pauses(scope: Scope, receive: Receive, send: Send) -> None:
    """Take a body, and do something else between its parts."""

    async def receive_later() -> dict[str, Any]:
        message = await receive()
        await asyncio.sleep(0.01)
        return message

    await uploads(scope, receive_later, send)


async def slow_upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Take nothing of a body until it is told to."""
    events.append("upload began")
    await published.wait()
    await uploads(scope, receive, send)


async def trailers(scope: Scope, receive: Receive, send: Send) -> None:
    head = {**START, "trailers": True}
    head["headers"] = [*START["headers"], (b"trailer", b"x-sum, x-more")]
    await send(head)
    await send({"type": "http.response.body", "body": b"body"})
    first = {"headers": [(b"x-sum", b"42")], "more_trailers": True}
    await send({"type": "http.response.trailers", **first})
    await send({"type": "http.response.trailers", "headers": [(b"x-more", b"1")]})


async def state_of(scope: Scope, receive: Receive, send: Send) -> None:
    """Show the state of the lifespan: its objects are shared, its keys are not."""
    state = scope["state"]
    state["list"].append(1)
    body = f"{len(state['list'])} {'own' in state}"
    state["own"] = True
    await answer(send, body.encode())


async def shows_scope(scope: Scope, receive: Receive, send: Send) -> None:
    shown = {key: value for key, value in scope.items() if key not in ("state", "app")}
    await answer(send, repr(shown).encode())


def _temporary(data: bytes) -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115  # Callers close it.
    file.write(data)
    file.flush()
    return file


async def path_of(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a file by its path; the query says which."""
    kind = scope["query_string"].decode()
    if kind in ("missing", "folder", "late"):
        await send(START)
        if kind == "late":
            await send({"type": "http.response.body", "body": b"begin", "more_body": True})
        path = {"missing": "/nonexistent/file", "folder": "/tmp", "late": __file__}[kind]
        sent = await _errors(send, {"type": "http.response.pathsend", "path": path})
        await send({"type": "http.response.body", "body": sent.encode()})
        return
    with _temporary(DATA) as file:
        length = 300 if kind == "short" else len(DATA)
        head = {**START, "headers": [(b"content-length", str(length).encode())]}
        await send(head if kind != "unannounced" else START)
        await send({"type": "http.response.pathsend", "path": file.name})
    events.append(await _errors(send, END))


async def zero_copy(scope: Scope, receive: Receive, send: Send) -> None:
    """Send parts of a file among other parts."""

    async def part(**keys: Any) -> None:
        await send({"type": "http.response.zerocopysend", "file": file, **keys})

    with _temporary(DATA) as file:
        file.seek(10)
        await send(START)
        await part(count=5, more_body=True)
        await send({"type": "http.response.body", "body": b"<between>", "more_body": True})
        await part(count=5, more_body=True)
        await part(offset=1000, count=3, more_body=True)
        await part(offset=len(DATA) - 2, count=100, more_body=True)
        await part(offset=10**9, more_body=True)
        await send({"type": "http.response.zerocopysend", "file": file.fileno(), "offset": 255_990})
    assert file.closed


async def many_copies(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a file again and again; its descriptor is closed by the end."""
    with _temporary(DATA) as file:
        await send(START)
        for _ in range(300):
            message = {"type": "http.response.zerocopysend", "file": file, "offset": 0}
            await send({**message, "more_body": True})
            events.append(f"{len(os.listdir('/proc/self/fd'))} descriptors")
        await send(END)


async def odd_files(scope: Scope, receive: Receive, send: Send) -> None:
    reading, writing = os.pipe()
    await send(START)
    kind = {"type": "http.response.zerocopysend", "more_body": True}
    sent = await _errors(send, {**kind, "file": reading, "offset": 0}, {**kind, "file": 9999}, kind)
    os.close(reading)
    os.close(writing)
    await send({"type": "http.response.body", "body": sent.encode()})


async def happened(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, repr(events).encode())


async def forget(scope: Scope, receive: Receive, send: Send) -> None:
    events.clear()
    published.clear()
    await answer(send, b"")


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    scope["state"]["list"] = []
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def patient(scope: Scope, receive: Receive, send: Send) -> None:
    """Echo on a websocket, and do something else whenever nothing comes for a while."""
    assert "websocket.connect" == (await receive())["type"]
    await send({"type": "websocket.accept"})
    while True:
        try:
            async with asyncio.timeout(0.01):
                message = await receive()
        except TimeoutError:
            events.append("nothing came")
            continue
        if message["type"] == "websocket.disconnect":
            break
        await send({"type": "websocket.send", "text": message["text"]})


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    else:
        await globals()[scope["path"].strip("/")](scope, receive, send)
