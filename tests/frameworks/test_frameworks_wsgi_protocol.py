"""How a WSGI application reads its request and starts its response, by PEP 3333, on both loops."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from waiting import eventually

pytest.importorskip("a2wsgi", reason="a2wsgi is not installed")

from threadlets.frameworks import wsgi  # After the skip.
from wsgi_connection import DEADLINE_S, Connection, Environ, StartResponse

pytestmark = pytest.mark.starts("inline", "beside")

# -- the request's body ----------------------------------------------------------------------------


def reading(
    read: Callable[[Any], Any], noted: list[Any], begun: threading.Event | None = None
) -> Any:
    """Return an application that reads its request's body, and notes the result or the error."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if begun is not None:
            begun.set()
        try:
            noted.append(read(environ["wsgi.input"]))
        except OSError as error:
            noted.append(error)
        start_response("200 OK", [])
        return [b"read"]

    return app


READS: dict[str, Callable[[Any], Any]] = {
    "all": lambda body: body.read(),
    "some": lambda body: body.read(1000),
    "line": lambda body: body.readline(),
    "long line": lambda body: body.readline(1000),
    "lines": lambda body: body.readlines(),
    "each line": list,
}


@pytest.mark.parametrize("how", ["disconnects", "cancelled"])
@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_a_body_that_breaks_off_is_no_whole_one(run_on_both: Any, read: Any, how: str) -> None:
    """If the client leaves half-way, reads raise an error instead of returning a shorter body."""
    noted: list[Any] = []

    async def main() -> None:
        begun = threading.Event()
        connection = Connection(wsgi(reading(read, noted, begun)), b"half", is_whole=False)
        # The application is not called if its client leaves before it has begun.
        await eventually(begun.is_set)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await connection.end(how)
        await eventually(lambda: noted)

    run_on_both(main())
    [error] = noted
    assert isinstance(error, ConnectionAbortedError)
    assert "the request's body is not complete" in str(error)


def test_what_came_before_a_client_left_can_be_read(run_on_both: Any) -> None:
    """The error is raised at the end of the data, and again at each further read."""
    noted: list[Any] = []

    def read(body: Any) -> list[Any]:
        parts = [body.read(4)]
        for _ in range(2):
            with pytest.raises(ConnectionAbortedError):
                body.read(1)
        return parts

    async def main() -> None:
        begun = threading.Event()
        connection = Connection(wsgi(reading(read, noted, begun)), b"half", is_whole=False)
        # The application is called when the first part has arrived.
        await eventually(begun.is_set)
        connection.left.set()
        await asyncio.wait([connection.task])
        await eventually(lambda: noted)

    run_on_both(main())
    assert [[b"half"]] == noted


def test_a_failing_receive_reaches_the_reader(run_on_both: Any) -> None:
    """The application gets the server's own error, not a body that seems to be complete."""
    noted: list[Any] = []

    async def main() -> bytes:
        sent: list[Any] = []
        messages = [{"type": "http.request", "body": b"half", "more_body": True}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            raise OSError("cannot receive")

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": b"",
            "http_version": "1.1",
            "headers": [],
        }
        await wsgi(reading(lambda body: body.read(), noted))(scope, receive, send)  # type: ignore[arg-type]
        return b"".join(sent)

    assert b"read" == run_on_both(main())
    assert "[OSError('cannot receive')]" == repr(noted)


@pytest.mark.parametrize("n_bytes", [0, 1, 5, 70_000])
def test_a_body_reads_like_a_file(run_on_both: Any, n_bytes: int) -> None:
    """Every way of reading gives the same as for bytes in memory, whatever the pieces are."""
    data = (b"line\n" * 20_000)[:n_bytes] + b"rest"
    ways = [
        *READS.values(),
        lambda body: [body.readline(3) for _ in range(5)],
        lambda body: [body.read(0), body.read(7), body.readline(), body.read(-1), body.read()],
        lambda body: body.readlines(12),
    ]
    noted: list[Any] = []

    def read(body: Any) -> list[Any]:
        return [ways[len(noted)](body)]

    async def main() -> None:
        for _ in ways:
            pieces = [data[at : at + 777] for at in range(0, len(data), 777)]
            await Connection(wsgi(reading(read, noted)), *pieces).task

    run_on_both(main())
    assert [[way(io.BytesIO(data))] for way in ways] == noted


def test_a_body_is_not_received_far_ahead(run_on_both: Any) -> None:
    """The rest of a large upload waits at its sender until the application reads on."""
    may_read = threading.Event()
    noted: list[Any] = []

    def read(body: Any) -> int:
        assert may_read.wait(DEADLINE_S)
        return len(body.read())

    async def main() -> int:
        pieces = [bytes(65536)] * 64
        connection = Connection(wsgi(reading(read, noted)), *pieces)
        n_before = -1
        while n_before != connection.n_received:
            n_before = connection.n_received
            for _ in range(50):
                await asyncio.sleep(0)
        may_read.set()
        await connection.task
        return n_before

    assert 4 <= run_on_both(main()) <= 6
    assert [64 * 65536] == noted


# -- start_response --------------------------------------------------------------------------------


def failing(message: str, app: Any, run_on_both: Any) -> Connection:
    """Run a request that fails; check that its error contains `message`."""

    async def main() -> Connection:
        connection = Connection(wsgi(app))
        await asyncio.wait([connection.task])
        error = connection.task.exception()
        assert error is not None
        assert message in str(error)
        return connection

    connection: Connection = run_on_both(main())
    return connection


def test_a_second_start_response_is_refused(run_on_both: Any) -> None:
    """By PEP 3333 a second call without `exc_info` is a fatal error."""

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        start_response("404 Not Found", [])
        return [b"body"]

    assert [] == failing("a second time without exc_info", app, run_on_both).sent


@pytest.mark.parametrize("body", [[b"body"], []], ids=["a part", "no part"])
def test_a_body_without_start_response_is_refused(run_on_both: Any, body: list[bytes]) -> None:
    """The error names the application's fault."""
    connection = failing("did not call start_response()", lambda *_: body, run_on_both)
    assert [] == connection.sent


@pytest.mark.parametrize("part", ["text", None, 5])
def test_parts_that_are_not_bytes_are_refused(run_on_both: Any, part: Any) -> None:
    """The iterable that the application returned is closed."""
    closed: list[bool] = []

    def app(_environ: Environ, start_response: StartResponse) -> Iterator[Any]:
        start_response("200 OK", [])
        try:
            yield part
        finally:
            closed.append(True)

    assert [] == failing(f"this one is {type(part).__name__}", app, run_on_both).sent
    assert [True] == closed


def test_an_error_page_replaces_a_head_that_is_not_sent(run_on_both: Any) -> None:
    """The head is sent with the first part that is not empty."""

    def app(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("X-Kind", "fine")])
        yield b""
        try:
            raise LookupError("mine")
        except LookupError:
            start_response("500 Error", [("X-Kind", "sorry")], sys.exc_info())
        yield b"sorry"

    connection = failing("mine", app, run_on_both)
    assert [500] == [it["status"] for it in connection.sent if "status" in it]
    assert [(b"x-kind", b"sorry")] == connection.sent[0]["headers"]
    assert b"sorry" == connection.body


def test_an_error_page_that_is_too_late_is_raised(run_on_both: Any) -> None:
    """By PEP 3333 `start_response` raises the given exception once the head has been sent."""
    closed: list[bool] = []

    def app(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"part"
            try:
                raise LookupError("mine")
            except LookupError:
                start_response("500 Error", [], sys.exc_info())
            yield b"never"
        finally:
            closed.append(True)

    connection = failing("mine", app, run_on_both)
    assert [200] == [it["status"] for it in connection.sent if "status" in it]
    assert [True] == closed
    assert all(it.get("more_body", True) for it in connection.sent)


def test_an_error_before_the_body_sends_no_head(run_on_both: Any) -> None:
    """The server can then answer with 500."""

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        raise LookupError("mine")

    assert [] == failing("mine", app, run_on_both).sent
