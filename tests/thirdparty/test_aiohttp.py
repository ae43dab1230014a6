"""aiohttp, client and server, on one loop."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

if hasattr(sys, "gettotalrefcount"):
    # Seen with multidict 7.2.1: `MultiDict([("a", "1")])` alone ends such a CPython, on any loop.
    pytest.skip("multidict crashes where CPython checks assertions", allow_module_level=True)

aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
web = pytest.importorskip("aiohttp.web", reason="aiohttp is not installed")

CHUNKS = [bytes([idx]) * 65_536 for idx in range(64)]
DIGEST = hashlib.sha256(b"".join(CHUNKS)).hexdigest()


@asynccontextmanager
async def serving(*routes: Any, ssl_context: Any = None) -> AsyncIterator[str]:
    """Serve the routes on a free port; yield the server's address."""
    app = web.Application(client_max_size=2**24)
    app.add_routes(routes)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
        port = runner.addresses[0][1]
        yield f"{'https' if ssl_context else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def whoami(request: Any) -> Any:
    host, port = request.transport.get_extra_info("peername")
    return web.json_response({"host": host, "port": port, "n": int(request.query["n"])})


async def digest(request: Any) -> Any:
    body = hashlib.sha256()
    async for chunk in request.content.iter_chunked(16_384):
        body.update(chunk)
    return web.json_response({"sha256": body.hexdigest()})


async def download(request: Any) -> Any:
    response = web.StreamResponse(headers={"X-Kind": "stream"})
    await response.prepare(request)
    for chunk in CHUNKS:
        await response.write(chunk)
    await response.write_eof()
    return response


async def echo_socket(request: Any) -> Any:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data[::-1])
        elif message.data == "goodbye":
            await socket.close(code=4001, message=b"as you wish")
        else:
            await socket.send_str(message.data.upper())
    return socket


async def chunks() -> AsyncIterator[bytes]:
    for chunk in CHUNKS:
        yield chunk


def test_requests_share_one_connection(run: Any) -> None:
    """A session that needs one connection at a time keeps one alive."""

    async def main() -> list[dict[str, Any]]:
        async with serving(web.get("/", whoami)) as url, aiohttp.ClientSession() as session:
            answers = []
            for n in range(25):
                async with session.get(url, params={"n": str(n)}) as response:
                    assert 200 == response.status
                    answers.append(await response.json())
            return answers

    answers = run(main())
    assert list(range(25)) == [answer["n"] for answer in answers]
    assert 1 == len({answer["port"] for answer in answers})


def test_requests_in_parallel_get_their_own_answers(run: Any) -> None:
    """A hundred requests over at most ten connections, each answered with its number."""

    async def main() -> list[dict[str, Any]]:
        connector = aiohttp.TCPConnector(limit=10)
        async with (
            serving(web.get("/", whoami)) as url,
            aiohttp.ClientSession(connector=connector) as session,
        ):

            async def ask(n: int) -> dict[str, Any]:
                async with session.get(url, params={"n": str(n)}) as response:
                    answer: dict[str, Any] = await response.json()
                    return answer

            return await asyncio.gather(*(ask(n) for n in range(100)))

    answers = run(main())
    assert list(range(100)) == [answer["n"] for answer in answers]
    assert len({answer["port"] for answer in answers}) <= 10


def test_a_streamed_upload_arrives_whole(run: Any) -> None:
    """Four megabytes from an async generator reach the handler unchanged."""

    async def main() -> Any:
        async with (
            serving(web.post("/", digest)) as url,
            aiohttp.ClientSession() as session,
            session.post(url, data=chunks()) as response,
        ):
            return await response.json()

    assert {"sha256": DIGEST} == run(main())


def test_a_streamed_download_arrives_whole(run: Any) -> None:
    """Four megabytes written chunk by chunk reach the client unchanged."""

    async def main() -> tuple[str, str]:
        async with (
            serving(web.get("/", download)) as url,
            aiohttp.ClientSession() as session,
            session.get(url) as response,
        ):
            body = hashlib.sha256()
            async for chunk in response.content.iter_any():
                body.update(chunk)
            return response.headers["X-Kind"], body.hexdigest()

    assert ("stream", DIGEST) == run(main())


def test_a_file_is_sent(run: Any, tmp_path: Path) -> None:
    """FileResponse uses the loop's sendfile."""
    path = tmp_path / "file"
    path.write_bytes(b"".join(CHUNKS))

    async def send(request: Any) -> Any:
        return web.FileResponse(path)

    async def main() -> bytes:
        async with (
            serving(web.get("/", send)) as url,
            aiohttp.ClientSession() as session,
            session.get(url) as response,
        ):
            body: bytes = await response.read()
            return body

    assert DIGEST == hashlib.sha256(run(main())).hexdigest()


def test_a_websocket_talks_and_closes(run: Any) -> None:
    """Text, a large binary message, then the server's close code."""

    async def main() -> tuple[str, bytes, int]:
        async with (
            serving(web.get("/", echo_socket)) as url,
            aiohttp.ClientSession() as session,
            session.ws_connect(url) as socket,
        ):
            await socket.send_str("hello")
            text = await socket.receive_str()
            await socket.send_bytes(b"ab" * 200_000)
            binary = await socket.receive_bytes()
            await socket.send_str("goodbye")
            closing = await socket.receive()
            assert closing.type is aiohttp.WSMsgType.CLOSE
            return text, binary, closing.data

    assert ("HELLO", b"ba" * 200_000, 4001) == run(main())


def test_tls_carries_everything(run: Any, tls: Any) -> None:
    """Upload, download and a websocket work over a certificate made for the test."""

    async def main() -> tuple[Any, str, str]:
        routes = (web.post("/", digest), web.get("/", download), web.get("/ws", echo_socket))
        connector = aiohttp.TCPConnector(ssl=tls.client)
        async with (
            serving(*routes, ssl_context=tls.server) as url,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            async with session.post(url, data=chunks()) as response:
                uploaded = await response.json()
            async with session.get(url) as response:
                downloaded = hashlib.sha256(await response.read()).hexdigest()
            async with session.ws_connect(f"{url}/ws") as socket:
                await socket.send_str("hello")
                return uploaded, downloaded, await socket.receive_str()

    assert ({"sha256": DIGEST}, DIGEST, "HELLO") == run(main())


def test_a_stranger_is_refused_by_tls(run: Any, tls: Any) -> None:
    """A client that does not know the certificate gets a certificate error."""

    async def main() -> None:
        async with (
            serving(web.get("/", whoami), ssl_context=tls.server) as url,
            aiohttp.ClientSession() as session,
        ):
            await session.get(url)

    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        run(main())


def test_a_client_that_leaves_cancels_nothing_else(run: Any) -> None:
    """A client gives up on a response; the server still answers the next request."""

    async def main() -> Any:
        asked = asyncio.Event()
        forever = asyncio.Event()

        async def hold(request: Any) -> Any:
            asked.set()
            await forever.wait()
            return web.Response()

        async with (
            serving(web.get("/hold", hold), web.get("/", whoami)) as url,
            aiohttp.ClientSession() as session,
        ):
            held = asyncio.create_task(session.get(f"{url}/hold"))
            await asked.wait()
            held.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held
            async with session.get(url, params={"n": "7"}) as response:
                answer = await response.json()
            forever.set()
            return answer["n"]

    assert 7 == run(main())
