"""httpx against servers of asyncio streams."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

Handler = Callable[[str, bytes, asyncio.StreamWriter], Awaitable[None]]
BODY = bytes(range(256)) * 8_192


@asynccontextmanager
async def serving(handle: Handler, ssl_context: Any = None) -> AsyncIterator[str]:
    """Serve HTTP/1.1 with keep-alive: one call of `handle` per request.

    Leaving the block waits until every connection's task has seen its client close.
    """
    conversations: set[asyncio.Task[None] | None] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.add(asyncio.current_task())
        try:
            while head := await read_head(reader):
                path, headers = head
                body = await read_body(reader, headers)
                await handle(path, body, writer)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=ssl_context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield f"{'https' if ssl_context else 'http'}://127.0.0.1:{port}"
        await asyncio.gather(*(task for task in conversations if task is not None))


async def read_head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    request, *lines = head.decode().split("\r\n")[:-2]
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return request.split()[1], headers


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = bytearray()
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return bytes(body)


async def answer_peer(path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
    peer = "{}:{}".format(*writer.get_extra_info("peername"))
    respond(writer, f"{path} {peer}".encode())


async def answer_digest(path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
    respond(writer, hashlib.sha256(body).hexdigest().encode())


async def answer_in_chunks(path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for start in range(0, len(BODY), 50_000):
        chunk = BODY[start : start + 50_000]
        writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


def respond(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


def test_requests_share_one_connection(run: Any) -> None:
    """Twenty requests come from one port."""

    async def main() -> list[str]:
        async with serving(answer_peer) as url, httpx.AsyncClient(trust_env=False) as client:
            return [(await client.get(f"{url}/{n}")).text for n in range(20)]

    texts = run(main())
    assert [text.split()[0] for text in texts] == [f"/{n}" for n in range(20)]
    assert 1 == len({text.split()[1] for text in texts})


def test_a_chunked_response_is_streamed(run: Any) -> None:
    """Two megabytes of chunks arrive whole and in order."""

    async def main() -> bytes:
        async with (
            serving(answer_in_chunks) as url,
            httpx.AsyncClient(trust_env=False) as client,
            client.stream("GET", url) as response,
        ):
            return b"".join([chunk async for chunk in response.aiter_bytes()])

    assert BODY == run(main())


def test_a_generated_body_is_uploaded(run: Any) -> None:
    """Two megabytes from an async generator arrive whole."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(BODY), 30_000):
            yield BODY[start : start + 30_000]

    async def main() -> str:
        async with serving(answer_digest) as url, httpx.AsyncClient(trust_env=False) as client:
            text: str = (await client.post(url, content=pieces())).text
            return text

    assert run(main()) == hashlib.sha256(BODY).hexdigest()


def test_tls_is_verified(run: Any, tls: Any) -> None:
    """A client with the certificate is answered; one without it raises an error."""

    async def main() -> str:
        async with serving(answer_digest, tls.server) as url:
            async with httpx.AsyncClient(verify=tls.client, trust_env=False) as client:
                text: str = (await client.post(url, content=BODY)).text
            async with httpx.AsyncClient(trust_env=False) as stranger:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await stranger.get(url)
            return text

    assert run(main()) == hashlib.sha256(BODY).hexdigest()


def test_a_silent_server_times_out(run: Any) -> None:
    """A read timeout ends the request; the client can still send another."""

    async def main() -> str:
        silence = asyncio.Event()

        async def answer_nothing(path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
            if path == "/silent":
                await silence.wait()
            else:
                respond(writer, b"spoken")

        async with serving(answer_nothing) as url, httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(f"{url}/silent", timeout=httpx.Timeout(5.0, read=0.05))
            text: str = (await client.get(url)).text
            silence.set()
            return text

    assert "spoken" == run(main())


def test_a_refused_connection_is_reported(run: Any, unused_port: int) -> None:
    """A port on which no server listens raises ConnectError."""

    async def main() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"http://127.0.0.1:{unused_port}/")

    with pytest.raises(httpx.ConnectError):
        run(main())
