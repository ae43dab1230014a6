"""Websockets of Starlette and FastAPI."""

import asyncio
import json
from typing import Annotated, Any

import pytest
from websocket_kit import on_a_loop, serving
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

fastapi = pytest.importorskip("fastapi")
endpoints = pytest.importorskip("starlette.endpoints")


@on_a_loop
async def test_an_endpoint_of_starlette_is_told_everything() -> None:
    """Its class has a method for each event."""
    routing = pytest.importorskip("starlette.routing")
    applications = pytest.importorskip("starlette.applications")
    events: list[str] = []
    left = asyncio.Event()

    class Echo(endpoints.WebSocketEndpoint):  # type: ignore[misc, name-defined]
        encoding = "json"

        async def on_connect(self, websocket: Any) -> None:
            events.append("connect")
            await websocket.accept(subprotocol="json", headers=[(b"x-a", b"1")])

        async def on_receive(self, websocket: Any, data: Any) -> None:
            events.append("receive")
            await websocket.send_json({"got": data})

        async def on_disconnect(self, websocket: Any, close_code: int) -> None:
            events.append(f"disconnect {close_code}")
            left.set()

    app = applications.Starlette(routes=[routing.WebSocketRoute("/", Echo)])
    async with serving(app) as (host, port):
        async with connect(f"ws://{host}:{port}/", subprotocols=["json"]) as websocket:
            await websocket.send(json.dumps({"a": [1, 2]}))
            assert {"got": {"a": [1, 2]}} == json.loads(await websocket.recv())
        await left.wait()
    assert ["connect", "receive", "disconnect 1000"] == events


@on_a_loop
async def test_a_function_of_fastapi_has_its_dependencies() -> None:
    """And its refusals."""
    codes: list[int] = []
    left = asyncio.Event()
    app = fastapi.FastAPI()

    async def token_of(websocket: fastapi.WebSocket) -> str:
        if "token" not in websocket.query_params:
            raise fastapi.WebSocketException(code=1008)
        return str(websocket.query_params["token"])

    @app.websocket("/items/{item}")  # type: ignore[untyped-decorator]
    async def items(
        websocket: fastapi.WebSocket, item: int, token: Annotated[str, fastapi.Depends(token_of)]
    ) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_text(f"{item} {token} {await websocket.receive_text()}")
        except fastapi.WebSocketDisconnect as gone:
            codes.append(gone.code)
            left.set()

    async with serving(app, lifespan="auto") as (host, port):
        async with connect(f"ws://{host}:{port}/items/7?token=t") as websocket:
            for text in ("x", "y"):
                await websocket.send(text)
                assert f"7 t {text}" == await websocket.recv()
        await left.wait()
        assert [1000] == codes
        for target in ("/items/7", "/items/seven?token=t", "/nothing"):
            with pytest.raises(InvalidStatus) as denied:
                await connect(f"ws://{host}:{port}{target}").__aenter__()
            assert 403 == denied.value.response.status_code
