"""Starlette on a threadlets loop: its plain functions are threadlets."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

pytest.importorskip("starlette", reason="starlette is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")

from starlette.applications import Starlette  # noqa: E402  # After the skips.
from starlette.background import BackgroundTask  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import (  # noqa: E402
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    StreamingResponse,
)
from starlette.routing import Route  # noqa: E402

pytestmark = pytest.mark.starts("inline", "beside")

N_BLOCKED = 100
user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


def client(app: Any, **options: Any) -> Any:
    """Return a client that calls the application directly."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, **options), base_url="http://app")


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve on a free port of the running loop, with uvicorn."""
    config = uvicorn.Config(app, port=0, loop="none", log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    await task


def thread(_request: Request) -> JSONResponse:
    return JSONResponse(threading.get_ident())


@pytest.mark.starts("inline")
def test_a_quick_endpoint_runs_on_the_loops_own_thread(run: Any) -> None:
    """A `def` endpoint that does not block is handed to no other thread."""
    app = Starlette(routes=[Route("/", thread)])

    async def main() -> set[int]:
        async with client(app) as http:
            return {(await http.get("/")).json() for _ in range(20)}

    assert run(main()) == {threading.get_ident()}


def test_a_hundred_endpoints_block_at_once(run: Any, gate: Any) -> None:
    """More endpoints than anyio has threads block, over TCP; quick ones are answered meanwhile."""
    app = Starlette(
        routes=[Route("/blocked", lambda _: JSONResponse(gate.wait())), Route("/quick", thread)]
    )

    async def main() -> tuple[list[int], list[int]]:
        limits = httpx.Limits(max_connections=None)
        async with (
            serving(app) as url,
            httpx.AsyncClient(base_url=url, limits=limits, timeout=30, trust_env=False) as http,
        ):
            blocked = [asyncio.create_task(http.get("/blocked")) for _ in range(N_BLOCKED)]
            await gate.arrivals(N_BLOCKED)
            quick = [(await http.get("/quick")).json() for _ in range(5)]
            assert 0 == gate.n_passed
            gate.open()
            return quick, [(await it).json() for it in blocked]

    quick, blocked = run(main())
    assert threading.get_ident() not in quick
    assert N_BLOCKED == len(set(blocked))


def test_endpoints_behind_middleware_see_its_context(run: Any, is_in_place: Any) -> None:
    """Variables that middleware sets are seen, and the middleware's task group does no harm."""

    async def identify(request: Request, call_next: Callable[[Request], Any]) -> Any:
        user.set(request.headers["user"])
        return await call_next(request)

    def who(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"{user.get()} {threading.current_thread().name}")

    middleware = [Middleware(BaseHTTPMiddleware, dispatch=identify)]
    app = Starlette(routes=[Route("/", who)], middleware=middleware)

    async def main() -> str:
        async with client(app) as http:
            return (await http.get("/", headers={"user": "somebody"})).text

    name, thread = run(main()).split()
    assert "somebody" == name
    assert is_in_place(thread)


def test_an_endpoint_may_run_a_loop_of_its_own(run: Any) -> None:
    """`asyncio.run` works in a `def` endpoint, as it does in a worker thread."""

    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    app = Starlette(routes=[Route("/", lambda _: JSONResponse(asyncio.run(answer())))])

    async def main() -> int:
        async with client(app) as http:
            number: int = (await http.get("/")).json()
            return number

    assert 42 == run(main())


def test_an_endpoint_that_fails_is_answered_with_500(run: Any) -> None:
    """Starlette gets the exception where it expects it."""

    def fail(_request: Request) -> None:
        raise LookupError("mine")

    app = Starlette(routes=[Route("/", fail)])

    async def main() -> int:
        async with client(app, raise_app_exceptions=False) as http:
            status: int = (await http.get("/")).status_code
            return status

    assert 500 == run(main())


def test_responses_of_plain_functions_arrive(run: Any, is_in_place: Any, tmp_path: Path) -> None:
    """Files, sync iterators and background tasks work, none of them in a worker thread."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    threads: list[str] = []
    after: list[str] = []

    def numbers() -> Iterator[bytes]:
        for n in range(3):
            threads.append(threading.current_thread().name)
            yield b"%d\n" % n

    background = BackgroundTask(lambda: after.append(threading.current_thread().name))
    app = Starlette(
        routes=[
            Route("/file", lambda _: FileResponse(path)),
            Route("/numbers", lambda _: StreamingResponse(numbers())),
            Route("/after", lambda _: PlainTextResponse("now", background=background)),
        ]
    )

    async def main() -> tuple[bytes, str, str]:
        async with client(app) as http:
            file, streamed, now = [await http.get(p) for p in ("/file", "/numbers", "/after")]
            return file.content, streamed.text, now.text

    content, streamed, now = run(main())
    assert content == path.read_bytes()
    assert ("0\n1\n2\n", "now") == (streamed, now)
    assert (3, 1) == (len(threads), len(after))
    assert all(is_in_place(thread) for thread in [*threads, *after])


@pytest.mark.parametrize("how", ["disconnects", "cancelled"])
def test_a_streamed_response_ends_with_its_client(run: Any, how: str) -> None:
    """A plain iterator that blocks is not resumed any more once its client has left."""
    left, n_made, n_asked = asyncio.Event(), 0, 0

    def parts() -> Iterator[bytes]:
        nonlocal n_made, n_asked
        while True:
            n_asked += 1
            time.sleep(0.001)
            n_made += 1
            yield b"part"

    async def receive() -> Any:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        pass

    async def main() -> None:
        scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "headers": [], "path": "/"}
        response = StreamingResponse(parts())
        task = asyncio.create_task(response(scope, receive, send))
        await eventually(lambda: n_made >= 5)
        if how == "disconnects":
            left.set()
        else:
            task.cancel()
        await asyncio.wait([task])
        await eventually(lambda: n_asked <= n_made)
        n_before = n_asked
        await asyncio.sleep(0.02)
        assert n_before == n_asked

    run(main())


def test_the_example_is_served(serve_example: Callable[[str], str]) -> None:
    """`threadlets serve` serves it; endpoints that sleep do not delay those that do not."""
    url = serve_example("examples.frameworks.starlette_app:app")

    async def main() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
            slow = [asyncio.create_task(http.get("/slow?seconds=1")) for _ in range(60)]
            while (await http.get("/stats")).json()["blocked"] <= 40:
                assert not all(it.done() for it in slow), "never more than 40 slept at once"
            assert "world" == (await http.get("/")).json()["hello"]
            assert [1, 2, 3] == [(await http.get("/visits")).json()["visits"] for _ in range(3)]
            assert (await http.get("/source")).text.startswith('"""A Starlette application')
            assert {1} == {(await it).json()["slept"] for it in slow}

    asyncio.run(main())
