"""WSGI applications on a threadlets loop: each request is a threadlet, and the protocol is kept."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import threadlets

pytest.importorskip("a2wsgi", reason="a2wsgi is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from threadlets.frameworks import MissingPackage, wsgi  # noqa: E402  # After the skips.

pytestmark = pytest.mark.starts("inline", "beside")

N_BLOCKED = 100
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
StartResponse = Callable[..., Any]
Environ = dict[str, Any]
Body = Callable[[Environ], Iterable[bytes]]


def answering(body: Body) -> Any:
    """Return an application that answers with the result of `body` for the request."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body(environ)

    return app


def thread(_environ: Environ) -> list[bytes]:
    return [b"%d" % threading.get_ident()]


def client(app: Any) -> Any:
    """Return a client that calls the application directly."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")


class Exchange:
    """One ASGI request whose server is the test."""

    def __init__(self, app: Any, *bodies: bytes) -> None:
        self.sent: list[dict[str, Any]] = []
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.left = asyncio.Event()
        self.error: Exception | None = None
        self._bodies = list(bodies) or [b""]
        self.task = asyncio.ensure_future(app(self._scope(), self._receive, self._send))

    def _scope(self) -> dict[str, Any]:
        n_bytes = sum(map(len, self._bodies))
        return {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "http_version": "1.1",
            "headers": [(b"content-length", b"%d" % n_bytes)],
        }

    async def _receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)
        if not self._bodies:
            await self.left.wait()
        if self.left.is_set():
            return {"type": "http.disconnect"}
        body = self._bodies.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self._bodies)}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.may_send.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


# -- where requests run ----------------------------------------------------------------------------


@pytest.mark.starts("inline")
def test_a_quick_request_runs_on_the_loops_own_thread(run_on_threadlets: Any) -> None:
    """An application that does not block is handed to no other thread."""
    app = wsgi(answering(thread))

    async def main() -> set[str]:
        async with client(app) as http:
            return {(await http.get("/")).text for _ in range(20)}

    assert run_on_threadlets(main()) == {str(threading.get_ident())}


@pytest.mark.starts("inline")
def test_a_body_that_is_here_is_read_without_blocking(run_on_threadlets: Any) -> None:
    """Reading the body of a small request involves no other thread."""

    def read(environ: Environ) -> list[bytes]:
        return [environ["wsgi.input"].read(5), *thread(environ)]

    async def main() -> set[bytes]:
        exchanges = [Exchange(wsgi(answering(read)), b"hello") for _ in range(20)]
        await asyncio.gather(*(exchange.task for exchange in exchanges))
        return {exchange.body for exchange in exchanges}

    assert run_on_threadlets(main()) == {b"hello%d" % threading.get_ident()}


def test_a_hundred_requests_block_at_once(run_on_threadlets: Any, gate: Any) -> None:
    """Each request blocks a thread of its own, while the loop answers quick ones."""

    def body(environ: Environ) -> list[bytes]:
        if environ["PATH_INFO"] == "/blocked":
            gate.wait()
        return thread(environ)

    app = wsgi(answering(body))

    async def main() -> set[str]:
        async with client(app) as http:
            blocked = [asyncio.create_task(http.get("/blocked")) for _ in range(N_BLOCKED)]
            await gate.arrivals(N_BLOCKED)
            assert (await http.get("/")).text != str(threading.main_thread().ident)
            assert 0 == gate.n_passed
            gate.open()
            return {(await it).text for it in blocked}

    assert N_BLOCKED == len(run_on_threadlets(main()))


def test_a_pool_limits_requests(run_on_threadlets: Any, gate: Any) -> None:
    """Requests beyond the pool's limit wait, and are answered in the end."""
    pool = threadlets.Pool(limit=2)
    app = wsgi(answering(lambda _: [b"%d" % gate.wait()]), pool=pool)

    async def main() -> list[int]:
        async with client(app) as http:
            requests = [asyncio.create_task(http.get("/")) for _ in range(6)]
            while pool.stats()["queued"] < 4:
                await asyncio.sleep(0)
            await gate.arrivals(2)
            assert 2 == gate.n_arrived
            gate.open()
            return [(await it).status_code for it in requests]

    assert [200] * 6 == run_on_threadlets(main())
    assert 6 == gate.n_passed


def test_the_stock_loop_gets_a_thread_pool(run_on_stock_loop: Any) -> None:
    """Without a threadlets loop, a2wsgi's own threads run the application."""
    app = wsgi(answering(lambda _: [threading.current_thread().name.encode()]))

    async def main() -> str:
        async with client(app) as http:
            text: str = (await http.get("/")).text
            return text

    assert run_on_stock_loop(main()).startswith("WSGI")


# -- what passes -----------------------------------------------------------------------------------


def test_a_request_sees_the_callers_context(run_on_threadlets: Any) -> None:
    """The context is a copy, so changes stay inside; the application sees no running loop."""

    def body(_environ: Environ) -> Iterator[bytes]:
        yield variable.get().encode()
        variable.set("inside")
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()

    async def main() -> tuple[str, str]:
        variable.set("outside")
        async with client(wsgi(answering(body))) as http:
            return (await http.get("/")).text, variable.get()

    assert ("outside", "outside") == run_on_threadlets(main())


def test_a_body_in_parts_arrives_whole(run_on_threadlets: Any) -> None:
    """The application blocks for parts that have not arrived; a line may consist of several."""

    def body(environ: Environ) -> list[bytes]:
        line = environ["wsgi.input"].readline()
        return [line, b"|", environ["wsgi.input"].read()]

    async def main() -> bytes:
        exchange = Exchange(wsgi(answering(body)), b"a li", b"ne\nand", b" the ", b"rest")
        await exchange.task
        return exchange.body

    assert b"a line\n|and the rest" == run_on_threadlets(main())


def test_a_response_is_sent_while_it_is_made(run_on_threadlets: Any, gate: Any) -> None:
    """The first part is sent while the application blocks before the second."""

    def body(_environ: Environ) -> Iterator[bytes]:
        yield b"first"
        gate.wait()
        yield b"second"

    async def main() -> bytes:
        exchange = Exchange(wsgi(answering(body)))
        while exchange.body != b"first":
            await asyncio.sleep(0)
        assert not exchange.task.done()
        gate.open()
        await exchange.task
        return exchange.body

    assert b"firstsecond" == run_on_threadlets(main())


def test_a_response_waits_for_a_slow_client(run_on_threadlets: Any) -> None:
    """An application that is faster than its client blocks before it has made all parts."""
    made: list[int] = []

    def body(_environ: Environ) -> Iterator[bytes]:
        for n in range(100):
            made.append(n)
            yield b"%d " % n

    async def main() -> bytes:
        exchange = Exchange(wsgi(answering(body)))
        exchange.may_send.clear()
        while not threadlets.stats()["blocked"]:
            await asyncio.sleep(0)
        assert 0 < len(made) < 20
        exchange.may_send.set()
        await exchange.task
        return exchange.body

    assert run_on_threadlets(main()) == b"".join(b"%d " % n for n in range(100))


def test_the_write_function_sends(run_on_threadlets: Any) -> None:
    """The function that `start_response` returns sends parts of the body."""

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("201 Created", [("X-Kind", "test")])
        write(b"written ")
        return [b"returned"]

    async def main() -> tuple[int, str, str]:
        async with client(wsgi(app)) as http:
            response = await http.get("/")
            return response.status_code, response.headers["x-kind"], response.text

    assert (201, "test", "written returned") == run_on_threadlets(main())


# -- how requests end ------------------------------------------------------------------------------


def test_an_applications_error_passes(run_on_threadlets: Any) -> None:
    """The server gets the exception itself, to answer with 500 and to log it."""
    error = LookupError("mine")

    def app(_environ: Environ, _start_response: StartResponse) -> list[bytes]:
        raise error

    async def main() -> BaseException | None:
        exchange = Exchange(wsgi(app))
        await asyncio.wait([exchange.task])
        return exchange.task.exception()

    assert run_on_threadlets(main()) is error


def test_an_error_that_was_answered_is_told_as_well(run_on_threadlets: Any) -> None:
    """With `exc_info` the error page is sent, and then the server gets the exception."""

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            raise LookupError("mine")
        except LookupError:
            start_response("500 Error", [], sys.exc_info())
            return [b"sorry"]

    async def main() -> tuple[int, bytes, str]:
        exchange = Exchange(wsgi(app))
        await asyncio.wait([exchange.task])
        return exchange.sent[0]["status"], exchange.body, repr(exchange.task.exception())

    assert (500, b"sorry", "LookupError('mine')") == run_on_threadlets(main())


class Endless:
    """An endless response, with a record of how it ended."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.is_closed = threading.Event()

    def app(self, _environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        try:
            while True:
                write(b"more")
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.is_closed.set()


def test_a_failing_server_ends_the_response(run_on_threadlets: Any) -> None:
    """The application gets an error at its next part; the request ends with the server's."""
    endless, error = Endless(), OSError("the client has left")

    async def main() -> BaseException | None:
        exchange = Exchange(wsgi(endless.app))
        while not exchange.sent:
            await asyncio.sleep(0)
        exchange.error = error
        await asyncio.wait([exchange.task])
        return exchange.task.exception()

    assert run_on_threadlets(main()) is error
    assert isinstance(endless.error, ConnectionAbortedError)
    assert "the server takes no more of it" in str(endless.error)


def test_a_cancelled_request_ends_the_response(run_on_threadlets: Any) -> None:
    """An application that waits for its client does not wait for ever."""
    endless = Endless()

    async def main() -> None:
        exchange = Exchange(wsgi(endless.app))
        exchange.may_send.clear()
        while not threadlets.stats()["blocked"]:
            await asyncio.sleep(0)
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task
        while not endless.is_closed.is_set():
            await asyncio.sleep(0)

    run_on_threadlets(main())
    assert isinstance(endless.error, ConnectionAbortedError)


def test_the_iterables_close_is_called(run_on_threadlets: Any) -> None:
    """PEP 3333 asks for this, whether the response is complete or not."""
    closed: list[str] = []

    def body(environ: Environ) -> Iterator[bytes]:
        try:
            yield b"part"
            if environ["PATH_INFO"] == "/fails":
                raise LookupError
        finally:
            closed.append(environ["PATH_INFO"])

    async def main() -> None:
        async with client(wsgi(answering(body))) as http:
            await http.get("/works")
            with pytest.raises(LookupError):
                await http.get("/fails")

    run_on_threadlets(main())
    assert ["/works", "/fails"] == closed


# -- servers, and packages that are missing --------------------------------------------------------


def test_lifespan_is_answered(run_on_threadlets: Any) -> None:
    """The application completes the server's start-up and shutdown."""

    async def main() -> list[str]:
        app = wsgi(answering(thread))
        asked = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]
        answers: list[str] = []

        async def receive() -> dict[str, str]:
            return asked.pop()

        async def send(message: dict[str, str]) -> None:
            answers.append(message["type"])

        await app({"type": "lifespan"}, receive, send)
        return answers

    assert [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ] == run_on_threadlets(main())


def test_the_example_is_served(serve_example: Callable[[str], str]) -> None:
    """`threadlets serve` serves its answers, also those that block, read or stream."""
    url = serve_example("examples.frameworks.wsgi_app:app")

    async def main() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
            slow = asyncio.create_task(http.get("/slow"))
            assert (await http.get("/")).text.startswith("hello from ")
            assert "HEY" * 100_000 == (await http.post("/shout", content=b"hey" * 100_000)).text
            assert "1\n2\n3\n4\n5\n" == (await http.get("/count")).text
            assert 404 == (await http.get("/nowhere")).status_code
            assert "slept\n" == (await slow).text

    asyncio.run(main())


def test_a_missing_a2wsgi_is_named(forget: Callable[[str], None]) -> None:
    """The error says what cannot be done, why, and what to install."""
    forget("a2wsgi")
    with pytest.raises(MissingPackage) as raised:
        wsgi(answering(thread))
    assert "a2wsgi" == raised.value.name
    expected = (
        "cannot serve a WSGI application: the package 'a2wsgi' is not installed; pip install a2wsgi"
    )
    assert expected == str(raised.value)
