"""Applications of real frameworks, served by `threadlets serve`, and clients that nobody here wrote."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served_apps import APPLICATIONS, Application, Served

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

ServeApp = Callable[..., Served]

N_MEETING = 12
N_NOTES = 50
UPLOAD = os.urandom(1 << 20) * 6
DEADLINE_S = 30.0


@pytest.fixture(params=APPLICATIONS, ids=lambda it: it.name)
def application(request: pytest.FixtureRequest) -> Application:
    """Return each application in turn."""
    found: Application = request.param
    return found


@pytest.fixture
def served(application: Application, serve_app: ServeApp) -> Served:
    """Return the server of the application."""
    return serve_app(application)


@pytest.fixture
def client(served: Served) -> Any:
    """Return httpx's client of the server."""
    with httpx.Client(base_url=served.url, timeout=DEADLINE_S, trust_env=False) as made:
        yield made


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def _run(*command: str) -> str:
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=2 * DEADLINE_S
    )
    assert 0 == ran.returncode, ran.stdout + ran.stderr
    return ran.stdout


# -- a database ----------------------------------------------------------------------------------------


def test_notes_are_stored_in_the_database(client: Any) -> None:
    """What is posted is found again; what was not is not."""
    text = "ünï\ncode 🐍"
    posted = client.post("/notes", json={"text": text})
    assert 201 == posted.status_code
    number = posted.json()["id"]
    assert {"id": number, "text": text} == client.get(f"/notes/{number}").json()
    missing = client.get("/notes/999999")
    assert (404, "there is no such note") == (missing.status_code, missing.json()["detail"])


def test_many_clients_store_notes_at_once(served: Served) -> None:
    """aiohttp's client writes on many connections; each note has its own number."""
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")

    async def main() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession(served.url) as session:

            async def add(text: str) -> dict[str, Any]:
                async with session.post("/notes", json={"text": text}) as response:
                    found: dict[str, Any] = await response.json()
                async with session.get(f"/notes/{found['id']}") as response:
                    assert found == await response.json()
                return found

            return await asyncio.gather(*(add(f"note {number}") for number in range(N_NOTES)))

    notes = asyncio.run(main())
    assert {f"note {number}" for number in range(N_NOTES)} == {it["text"] for it in notes}
    assert N_NOTES == len({it["id"] for it in notes})


# -- uploads -------------------------------------------------------------------------------------------


def _expected(title: str, name: str) -> dict[str, Any]:
    digest = hashlib.sha256(UPLOAD).hexdigest()
    return {"title": title, "name": name, "size": len(UPLOAD), "sha256": digest}


def test_curl_uploads_a_form(served: Served, tmp_path: Path) -> None:
    """A form with a large file arrives whole, though curl asks for leave to send it."""
    curl = _tool("curl")
    (tmp_path / "data.bin").write_bytes(UPLOAD)
    form = ["-F", "title=Größe", "-F", f"file=@{tmp_path / 'data.bin'}"]
    answer = _run(
        curl, "-sS", "--fail", "-H", "Expect: 100-continue", *form, f"{served.url}/upload"
    )
    assert _expected("Größe", "data.bin") == json.loads(answer)


def test_a_form_comes_in_chunks(application: Application, served: Served) -> None:
    """The same with Transfer-Encoding chunked, which aiohttp sends for a generator."""
    if application.name.startswith("django"):
        pytest.skip("Django takes a body without Content-Length for an empty one")
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")

    files = {"file": ("data.bin", UPLOAD, "text/plain")}
    form = httpx.Request("POST", served.url, data={"title": "chunks"}, files=files)
    body = form.read()

    async def main() -> dict[str, Any]:
        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(body), 100_000):
                yield body[at : at + 100_000]

        headers = {"Content-Type": form.headers["Content-Type"]}
        async with (
            aiohttp.ClientSession(served.url) as session,
            session.post("/upload", data=pieces(), headers=headers) as response,
        ):
            found: dict[str, Any] = await response.json()
            return found

    assert _expected("chunks", "data.bin") == asyncio.run(main())


# -- streams -------------------------------------------------------------------------------------------


def test_a_response_is_streamed(client: Any) -> None:
    """All parts of a long response arrive, in their order, and a client may leave in the middle."""
    n_parts = 3000
    with client.stream("GET", "/stream", params={"n": 10**9}) as response:
        assert next(response.iter_lines()).startswith("000000 ")
    with client.stream("GET", "/stream", params={"n": n_parts}) as response:
        numbers = [int(line.partition(" ")[0]) for line in response.iter_lines()]
    assert list(range(n_parts)) == numbers
    assert 404 == client.get("/notes/999999").status_code


def test_events_arrive_when_they_are_sent(client: Any) -> None:
    """The first event is here before the second one exists."""
    with client.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        data = (line for line in response.iter_lines() if line.startswith("data:"))
        assert "begin" == next(data).removeprefix("data:").strip()
        assert client.post("/publish", json={"text": "news"}).is_success
        assert "news" == next(data).removeprefix("data:").strip()


# -- threads -------------------------------------------------------------------------------------------


def test_blocking_functions_run_at_once(application: Application, client: Any) -> None:
    """Plain functions wait for one another, which they could not do one after the other."""
    if application.name == "django-asgi":
        pytest.skip("Django runs the plain views of an ASGI application one after the other")
    with ThreadPoolExecutor(N_MEETING) as pool:
        met = list(pool.map(lambda _: client.get("/meet"), range(N_MEETING)))
    assert [200] * N_MEETING == [it.status_code for it in met]


def test_background_tasks_run_after_the_response(serve_app: ServeApp) -> None:
    """Starlette's background tasks have run soon after the client has its response."""
    served = serve_app(APPLICATIONS[0])
    with httpx.Client(base_url=served.url, timeout=DEADLINE_S, trust_env=False) as client:
        client.post("/notes", json={"text": "afterwards"})
        while "afterwards" not in client.get("/tasks").json():
            pass


# -- websockets ----------------------------------------------------------------------------------------

WITH_WEBSOCKETS = [it for it in APPLICATIONS if it.has_websockets]


def _serves_websockets(port: int) -> bool:
    """Whether the server agrees to change to the protocol."""
    fields = (
        "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
        connection.sendall(f"GET /echo HTTP/1.1\r\n{fields}".encode())
        return connection.recv(12) == b"HTTP/1.1 101"


@pytest.mark.parametrize("application", WITH_WEBSOCKETS, ids=lambda it: it.name)
@pytest.mark.parametrize("kind", ["websockets", "aiohttp"])
def test_a_websocket_echoes(application: Application, serve_app: ServeApp, kind: str) -> None:
    """Text and bytes, short and long, come back as they were sent, to two clients."""
    package = pytest.importorskip(kind, reason=f"{kind} is not installed")
    served = serve_app(application)
    if not _serves_websockets(served.port):
        pytest.skip("this server does not serve websockets")
    url = f"ws://127.0.0.1:{served.port}/echo"
    sent: list[str | bytes] = ["", "ünïcode", b"\0\xff", "x" * 100_000, os.urandom(300_000)]

    async def by_websockets() -> list[str | bytes]:
        from websockets.asyncio.client import connect

        async with connect(url, subprotocols=["echo"], proxy=None) as connection:
            assert "echo" == connection.subprotocol
            for message in sent:
                await connection.send(message)
            return [await connection.recv() for _ in sent]

    async def by_aiohttp() -> list[str | bytes]:
        async with package.ClientSession() as session, session.ws_connect(url) as connection:
            for message in sent:
                if isinstance(message, str):
                    await connection.send_str(message)
                else:
                    await connection.send_bytes(message)
            return [(await connection.receive()).data for _ in sent]

    assert sent == asyncio.run(by_websockets() if kind == "websockets" else by_aiohttp())


# -- load ----------------------------------------------------------------------------------------------


def test_ab_loses_nothing(served: Served) -> None:
    """ab, which opens a connection for each request, has an answer to each."""
    ab = _tool("ab")
    out = _run(ab, "-q", "-n", "300", "-c", "30", f"{served.url}/stream?n=20")
    assert "Complete requests:      300" in out
    assert "Failed requests:        0" in out
    assert "Non-2xx" not in out


def test_wrk_loses_nothing(served: Served) -> None:
    """wrk, which keeps its connections and sends as fast as it can, sees no error."""
    wrk = _tool("wrk")
    out = _run(wrk, "-t1", "-c30", "-d1s", f"{served.url}/stream?n=20")
    assert "requests in" in out
    assert "Socket errors" not in out
    assert "Non-2xx" not in out


def test_h2load_loses_nothing(served: Served) -> None:
    """h2load, by HTTP/1.1, has an answer to each request."""
    h2load = _tool("h2load")
    out = _run(h2load, "--h1", "-n", "300", "-c", "10", f"{served.url}/stream?n=20")
    assert "300 succeeded, 0 failed, 0 errored" in out
