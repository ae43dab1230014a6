"""Websockets as applications and clients have them: the frames themselves are in `test_websocket_protocol.py`."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from messages import Closed
from threadlets import _core
from threadlets.exceptions import ClientDisconnected
from waiting import eventually
from websocket_client import BINARY, CLOSE, DEFLATE, PING, TEXT, WebSocket, frame
from websocket_kit import Message, Receive, Scope, Send, connected, on_a_loop, serving
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus


class Heard:
    """An application that accepts, and keeps what it receives until the end."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.scope: Scope = {}
        self.messages: list[Message] = []
        self.ended = asyncio.Event()
        self._accepts = accepts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        if self._accepts:
            assert {"type": "websocket.connect"} == await receive()
            await send({"type": "websocket.accept"})
        while True:
            message = await receive()
            self.messages.append(message)
            if message["type"] == "websocket.disconnect":
                self.ended.set()
                return

    async def closure(self) -> tuple[int, str]:
        """Return code and reason of the disconnect, once it has come."""
        await self.ended.wait()
        return self.messages[-1]["code"], self.messages[-1]["reason"]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send back what comes."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def in_thread(use: Callable[..., Any], *args: Any) -> Awaitable[Any]:
    """Call a blocking client in a thread."""
    return asyncio.get_running_loop().run_in_executor(None, functools.partial(use, *args))


# --- Scope, acceptance, denial ---


@on_a_loop
async def test_the_scope_says_what_the_client_has_asked_for() -> None:
    """As the specification of ASGI lists it."""
    app = Heard()
    client = {"subprotocols": ["chat", "superchat"], "additional_headers": {"X-Token": "a"}}
    async with connected(app, "/a%20b?x=1", client=client, root_path="/root") as websocket:
        scope = app.scope
        assert "websocket" == scope["type"]
        assert ("2.4", "1.1", "ws") == (
            scope["asgi"]["spec_version"],
            scope["http_version"],
            scope["scheme"],
        )
        assert ("/root/a b", b"/a%20b", b"x=1", "/root") == (
            scope["path"],
            scope["raw_path"],
            scope["query_string"],
            scope["root_path"],
        )
        assert ["chat", "superchat"] == scope["subprotocols"]
        assert (b"x-token", b"a") in scope["headers"]
        assert websocket.local_address == tuple(scope["client"])
        assert websocket.remote_address == tuple(scope["server"])
        assert {"websocket.http.response": {}} == scope["extensions"]
        assert "method" not in scope


@on_a_loop
async def test_an_acceptance_chooses_a_subprotocol_and_adds_headers() -> None:
    """Beside those of the server."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"x-session", b"7"), (b"set-cookie", b"a=b")]
        await send({"type": "websocket.accept", "subprotocol": "chat", "headers": headers})

    client = {"subprotocols": ["chat"]}
    async with connected(app, client=client, headers=(("x-server", "1"),)) as websocket:
        assert "chat" == websocket.subprotocol
        assert websocket.response is not None
        fields = websocket.response.headers
        assert ("7", "a=b", "1") == (fields["x-session"], fields["set-cookie"], fields["x-server"])
        await websocket.wait_closed()
        assert 1000 == websocket.close_code


@on_a_loop
async def test_closing_before_accepting_denies_with_403() -> None:
    """And the application is told that it is over."""
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})
        heard.extend([await receive(), await receive()])

    async with serving(app) as (host, port):
        with pytest.raises(InvalidStatus) as denied:
            await connect(f"ws://{host}:{port}/").__aenter__()
        assert 403 == denied.value.response.status_code
    assert ["websocket.connect", "websocket.disconnect"] == [it["type"] for it in heard]


@on_a_loop
async def test_a_denial_may_be_a_whole_response() -> None:
    """The extension `websocket.http.response`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        start = {"status": 401, "headers": [(b"www-authenticate", b"Basic")]}
        await send({"type": "websocket.http.response.start", **start})
        await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"are you?"})

    async with serving(app) as (host, port):
        with pytest.raises(InvalidStatus) as denied:
            await connect(f"ws://{host}:{port}/").__aenter__()
        response = denied.value.response
        assert (401, "Basic") == (response.status_code, response.headers["www-authenticate"])
        assert b"who are you?" == response.body


@on_a_loop
@pytest.mark.parametrize("how", ["raises", "returns", "forgets"])
async def test_an_application_that_does_not_answer_is_an_error_of_the_server(how: str) -> None:
    """500, and a line in the log."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if how == "raises":
            raise RuntimeError("as asked")
        if how == "forgets":
            await send({"type": "websocket.send", "text": "too early"})

    async with serving(app) as (host, port):
        with pytest.raises(InvalidStatus) as denied:
            await connect(f"ws://{host}:{port}/").__aenter__()
        assert 500 == denied.value.response.status_code


@on_a_loop
async def test_a_wsgi_application_gets_a_handshake_as_a_request() -> None:
    """It knows no websockets, and a server may ignore an upgrade."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    async with serving(app, interface="wsgi") as (host, port):
        with pytest.raises(InvalidStatus) as denied:
            await connect(f"ws://{host}:{port}/").__aenter__()
        assert 200 == denied.value.response.status_code


# --- Messages ---


@on_a_loop
@pytest.mark.parametrize("compression", ["deflate", None])
async def test_messages_of_all_sizes_come_back(compression: str | None) -> None:
    """Compressible ones, and noise; up to the limit."""
    noise = os.urandom(1 << 20)
    async with connected(echo, client={"compression": compression, "max_size": None}) as websocket:
        for n_bytes in (0, 1, 125, 126, 1023, 1024, 4096, 65535, 65536, 100_000, 1 << 20, 1 << 24):
            text = ("héllo wörld " * (n_bytes // 12 + 1))[: n_bytes // 2]
            binary = (noise * (n_bytes // len(noise) + 1))[:n_bytes]
            await websocket.send(text)
            assert text == await websocket.recv()
            await websocket.send(binary)
            assert binary == await websocket.recv()


@on_a_loop
async def test_contexts_go_on_over_many_messages() -> None:
    """Each message is compressed with what the ones before it had."""
    async with connected(echo) as websocket:
        for i in range(300):
            text = json.dumps([{"id": i + j, "name": f"user {j * i % 97}"} for j in range(i % 60)])
            await websocket.send(text)
            assert text == await websocket.recv()


@on_a_loop
async def test_a_message_above_the_limit_closes_with_1009() -> None:
    """The application is told so."""
    app = Heard()
    async with connected(app, ws_max_size=1000, client={"compression": None}) as websocket:
        await websocket.send("x" * 1000)
        await websocket.send("x" * 1001)
        await websocket.wait_closed()
        assert 1009 == websocket.close_code
        assert 1009 == (await app.closure())[0]
        assert ["x" * 1000] == [it["text"] for it in app.messages[:-1]]


@on_a_loop
async def test_only_messages_that_are_worth_it_are_compressed() -> None:
    """The first reserved bit says so."""

    def use(address: tuple[str, int]) -> None:
        with WebSocket(address, headers=DEFLATE) as websocket:
            websocket.send(frame(TEXT, b"x" * 100), frame(TEXT, b"x" * 5000))
            websocket.send(frame(BINARY, os.urandom(5000)))
            assert [0, 4, 0] == [websocket.read_frame().reserved for _ in range(3)]

    async with serving(echo) as address:
        await in_thread(use, address)


@on_a_loop
async def test_compression_can_be_off() -> None:
    """Then it is not agreed on."""
    async with connected(echo, ws_per_message_deflate=False) as websocket:
        assert not websocket.protocol.extensions
        await websocket.send("x" * 5000)
        assert "x" * 5000 == await websocket.recv()


@on_a_loop
async def test_what_a_client_sends_with_its_handshake_is_received() -> None:
    """Some do not wait for the answer."""

    def use(address: tuple[str, int]) -> None:
        early = frame(TEXT, b"early") + frame(BINARY, b"x" * 100_000)
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                + early
            )
            received = b""
            while not received.endswith(b"early\x82\x7f" + (100_000).to_bytes(8) + b"x" * 100_000):
                received += client.recv(65536) or pytest.fail("it ended")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)
        await echo(scope, receive, send)

    async with serving(app) as address:
        await in_thread(use, address)


# --- Waiting for each other ---


@on_a_loop
async def test_send_waits_for_a_slow_reader() -> None:
    """What it has not taken stays bounded."""
    n_sent = 0
    sends = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal n_sent
        await send({"type": "websocket.accept"})
        for _ in range(2000):
            await send({"type": "websocket.send", "bytes": b"x" * 16384})
            n_sent += 1
            sends.set()

    async with connected(app, client={"compression": None, "max_queue": 1}) as websocket:
        before = -1
        while before != n_sent:
            before = n_sent
            await asyncio.sleep(0.2)
        assert n_sent < 1000
        for _ in range(2000):
            assert 16384 == len(await websocket.recv())
        assert 2000 == n_sent


@on_a_loop
async def test_a_client_waits_for_an_application_that_does_not_receive() -> None:
    """Nothing is lost, and it is not taken for gone, whatever it does not answer."""
    receives = asyncio.Event()
    lengths: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        await receives.wait()
        while (message := await receive())["type"] == "websocket.receive":
            lengths.append(len(message["bytes"]))

    n_sent = 0

    async def flood(websocket: ClientConnection) -> None:
        nonlocal n_sent
        for _ in range(2000):
            await websocket.send(b"x" * 16384)
            n_sent += 1

    pings = {"ws_ping_interval": 0.1, "ws_ping_timeout": 0.1}
    client = {"compression": None, "ping_interval": None}
    async with connected(app, client=client, **pings) as websocket:
        flooding = asyncio.create_task(flood(websocket))
        before = -1
        while before != n_sent:
            before = n_sent
            await asyncio.sleep(0.5)
        assert n_sent < 2000
        receives.set()
        await flooding
    assert [16384] * 2000 == lengths


@on_a_loop
async def test_a_reader_that_takes_nothing_is_dropped() -> None:
    """As one of a response; the application is cancelled."""
    cancelled = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "bytes": b"x" * 65536})
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(app, timeout_response=0.3) as address:
        websocket = await in_thread(WebSocket, address)
        with websocket:
            await cancelled.wait()


# --- Pings ---


@on_a_loop
async def test_a_client_that_answers_no_ping_has_left() -> None:
    """1006 for the application; the client is told 1011, if it is there."""
    app = Heard()

    def use(address: tuple[str, int]) -> list[int]:
        with WebSocket(address) as websocket:
            return [(websocket.read_frame()).opcode, websocket.read_frame().code or 0]

    async with serving(app, ws_ping_interval=0.2, ws_ping_timeout=0.2) as address:
        assert [PING, 1011] == await in_thread(use, address)
        assert (1006, "no answer to a ping") == await app.closure()


@on_a_loop
async def test_a_client_that_answers_pings_stays() -> None:
    """So does one that sends."""
    app = Heard()
    async with connected(app, ws_ping_interval=0.1, ws_ping_timeout=0.2) as websocket:
        await asyncio.sleep(1)
        await websocket.send("still here")
        await websocket.close()
    assert 1000 == (await app.closure())[0]
    assert "still here" == app.messages[0]["text"]


# --- Closing, leaving, draining ---


@on_a_loop
async def test_the_application_hears_code_and_reason() -> None:
    """Those of the client."""
    app = Heard()
    async with connected(app) as websocket:
        await websocket.send("last")
        await websocket.close(4001, "bÿe")
    assert (4001, "bÿe") == await app.closure()
    assert "last" == app.messages[0]["text"]


@on_a_loop
@pytest.mark.parametrize("fails", [False, True])
async def test_an_application_that_ends_closes(fails: bool) -> None:
    """With 1000, or with 1011 if it raises; what it has sent before arrives."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x" * 200_000})
        if fails:
            raise RuntimeError("as asked")

    async with connected(app) as websocket:
        assert 200_000 == len(await websocket.recv())
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert (1011 if fails else 1000) == websocket.close_code


@on_a_loop
async def test_a_client_that_does_not_close_is_closed() -> None:
    """The application need not wait for it."""
    heard: list[Message] = []
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 3001, "reason": "go"})
        heard.append(await receive())
        ended.set()

    def use(address: tuple[str, int]) -> None:
        with WebSocket(address) as websocket:
            closing = websocket.read_frame()
            assert (CLOSE, 3001, b"go") == (closing.opcode, closing.code, closing.payload[2:])
            with pytest.raises((Closed, ConnectionResetError)):
                websocket.read_frame()

    async with serving(app, timeout_response=0.3) as address:
        await in_thread(use, address)
        await ended.wait()
    assert ["websocket.disconnect"] == [it["type"] for it in heard]


@on_a_loop
async def test_sending_after_the_end_is_an_error() -> None:
    """An OSError, as ASGI asks; nothing is logged of it."""
    errors: list[BaseException] = []
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        assert "websocket.disconnect" == (await receive())["type"]
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except OSError as error:
            errors.append(error)
            ended.set()
            raise

    async with connected(app) as websocket:
        await websocket.close()
        await ended.wait()
    assert [ClientDisconnected] == [type(it) for it in errors]


@on_a_loop
@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_an_application_that_only_sends_is_cancelled(how: str) -> None:
    """When its client has left: nothing else would tell it."""
    cancelled = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with connected(app) as websocket:
        if how == "resets":
            websocket.transport.abort()
        else:
            await websocket.close()
        await cancelled.wait()


@on_a_loop
async def test_an_application_that_receives_finishes_what_it_has_received() -> None:
    """A client may send and leave: its message is worked on, and those behind it are received."""
    done: list[str] = []
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await asyncio.sleep(0.1)
            done.append(message["text"])
        ended.set()

    async with connected(app) as websocket:
        for text in ("one", "two", "three"):
            await websocket.send(text)
        await websocket.close()
        await ended.wait()
    assert ["one", "two", "three"] == done


@on_a_loop
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_server_that_drains_says_so(restarts: bool) -> None:
    """1001, or 1012 if another one takes its place."""
    app = Heard()
    code = 1012 if restarts else 1001
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        native = _core.HttpServer(
            asyncio.get_running_loop(), app, None, limits={}, headers=[], logs=False, root_path="",
            scheme="http", state=None, extensions={}, websockets={},
        )  # fmt: skip
        native.listen(listener.fileno())
        host, port = listener.getsockname()
        async with connect(f"ws://{host}:{port}/") as websocket:
            await websocket.send("before")
            native.drain(restarts)
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert code == websocket.close_code
            assert code == (await app.closure())[0]
            assert "before" == app.messages[0]["text"]
        await eventually(lambda: not native.counts()[0] and not native.n_applications())
        assert 1 == native.metrics()["websockets"]
        native.close()


@on_a_loop
async def test_a_server_that_is_closed_cancels_what_does_not_end() -> None:
    """No application outlives it."""
    entered, left = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        entered.set()
        try:
            await asyncio.sleep(1000)
        finally:
            left.set()

    async with serving(app) as (host, port):
        websocket = await connect(f"ws://{host}:{port}/")
        await entered.wait()
    await left.wait()
    with pytest.raises(ConnectionClosedError):
        await websocket.recv()


# --- Many ---


@on_a_loop
async def test_a_thousand_websockets_wait_side_by_side() -> None:
    """And each is answered."""
    n_websockets = 1000

    async with serving(echo, backlog=4096) as (host, port):
        gate = asyncio.Semaphore(50)

        async def open_one() -> ClientConnection:
            async with gate:
                return await connect(f"ws://{host}:{port}/", ping_interval=None)

        websockets = await asyncio.gather(*(open_one() for _ in range(n_websockets)))

        async def use(i: int, websocket: ClientConnection) -> None:
            await websocket.send(f"{i}")
            assert f"{i}" == await websocket.recv()

        for _ in range(2):
            await asyncio.gather(*(use(i, it) for i, it in enumerate(websockets)))
        await asyncio.gather(*(it.close() for it in websockets))
        assert {1000} == {it.close_code for it in websockets}
