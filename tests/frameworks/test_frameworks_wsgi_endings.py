"""Ends of WSGI requests: the client leaves, the server fails, a cancellation, or misbehaviour.

Most tests run on both loops: the end is the same where a thread pool runs the application.
"""

from __future__ import annotations

import asyncio
import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import threadlets
from waiting import eventually, wait_until

pytest.importorskip("a2wsgi", reason="a2wsgi is not installed")

from threadlets.frameworks import wsgi  # After the skip.
from wsgi_connection import DEADLINE_S, ENDINGS, Connection, Environ, StartResponse

pytestmark = pytest.mark.starts("inline", "beside")


class Stream:
    """An endless response that counts its parts, and records the threads that close it."""

    def __init__(self, part: bytes = b"part", blocks_at: int | None = None) -> None:
        self.closed_in: list[int] = []
        self.is_closed = threading.Event()
        self.thread: int | None = None
        self.n_made = 0
        self.is_blocked = threading.Event()
        self.may_go_on = threading.Event()
        self._part = part
        self._blocks_at = blocks_at

    def app(self, _environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        self.thread = threading.get_ident()
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        assert not self.closed_in, "a closed response is not resumed"
        if self.n_made == self._blocks_at:
            self.is_blocked.set()
            assert self.may_go_on.wait(DEADLINE_S)
        self.n_made += 1
        return self._part if self.n_made > 1 else b"first"

    def close(self) -> None:
        self.closed_in.append(threading.get_ident())
        self.is_closed.set()

    async def closed(self) -> None:
        await eventually(self.is_closed.is_set)


# -- an endless response ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "how"),
    [*((b"part", how) for how in ENDINGS), (b"", "disconnects"), (b"", "cancelled")],
)
def test_an_endless_response_is_closed_once(run_on_both: Any, how: str, part: bytes) -> None:
    """It is closed on its own thread, however the request ends; with empty parts, too."""
    stream = Stream(part)

    async def main() -> BaseException | None:
        connection = Connection(wsgi(stream.app))
        await connection.has_sent()
        told = await connection.end(how)
        await stream.closed()
        return told

    told = run_on_both(main())
    assert [stream.thread] == stream.closed_in
    assert ("OSError('cannot send')" if how == "send fails" else "None") == repr(told)


@pytest.mark.parametrize("how", ENDINGS)
def test_a_response_that_waits_for_a_slow_client_is_closed(run_on_both: Any, how: str) -> None:
    """A response that waits for room to send is closed, although there will never be any."""
    stream = Stream()

    async def main() -> None:
        connection = Connection(wsgi(stream.app))
        connection.may_send.clear()
        await eventually(lambda: stream.n_made >= 10)
        await connection.end(how)
        await stream.closed()

    run_on_both(main())
    assert [stream.thread] == stream.closed_in


@pytest.mark.parametrize("how", ["disconnects", "cancelled"])
def test_a_response_that_blocks_is_closed_when_it_goes_on(run_on_both: Any, how: str) -> None:
    """Running code cannot be stopped, but the next part is the last one."""
    stream = Stream(blocks_at=3)

    async def main() -> None:
        connection = Connection(wsgi(stream.app))
        await eventually(stream.is_blocked.is_set)
        if how == "cancelled":
            await connection.end(how)
        else:
            connection.left.set()
            for _ in range(20):
                await asyncio.sleep(0)
        assert not stream.closed_in
        stream.may_go_on.set()
        await stream.closed()
        assert 4 == stream.n_made

    run_on_both(main())
    assert [stream.thread] == stream.closed_in


@pytest.mark.parametrize("how", ENDINGS)
def test_write_raises_when_the_server_takes_no_more(run_on_both: Any, how: str) -> None:
    """`write()` raises at every call and on every thread, also for two threads at once."""
    errors: list[str] = []

    def writes(write: Callable[[bytes], None]) -> None:
        for _ in range(2):
            try:
                while True:
                    write(b"more")
            except ConnectionAbortedError as error:
                errors.append(str(error))

    def app(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        helper = threading.Thread(target=writes, args=(write,))
        helper.start()
        writes(write)
        helper.join()
        return [b"the end"]

    async def main() -> None:
        connection = Connection(wsgi(app))
        await connection.has_sent()
        connection.may_send.clear()
        await connection.end(how)
        await eventually(lambda: len(errors) >= 4)

    run_on_both(main())
    assert all("the server takes no more of it" in error for error in errors)


def test_an_application_that_ends_because_its_client_left_is_no_error(run_on_both: Any) -> None:
    """A client's leaving is no error, even if the application passes the error of `write` on."""

    def app(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        while True:
            write(b"more")

    async def main() -> BaseException | None:
        connection = Connection(wsgi(app))
        await connection.has_sent()
        return await connection.end("disconnects")

    assert run_on_both(main()) is None


@pytest.mark.parametrize("how", ["disconnects", "send fails"])
def test_an_error_while_a_response_is_closed_is_told(run_on_both: Any, how: str) -> None:
    """The application's own error takes precedence."""
    error = LookupError("mine")

    class Fails(Stream):
        def close(self) -> None:
            super().close()
            raise error

    async def main() -> BaseException | None:
        connection = Connection(wsgi(Fails().app))
        await connection.has_sent()
        return await connection.end(how)

    assert run_on_both(main()) is error


def test_application_is_not_called_for_a_client_that_leaves_first(run_on_both: Any) -> None:
    """The application is not called if the client leaves before the first part of its body."""
    called: list[str] = []

    def app(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        called.append("app")
        start_response("200 OK", [])
        return [b""]

    async def main() -> BaseException | None:
        connection = Connection(wsgi(app))
        return await connection.end("disconnects")

    assert run_on_both(main()) is None
    assert [] == called


def test_application_is_not_called_for_a_client_that_leaves_the_queue(
    run_on_threadlets: Any, gate: Any
) -> None:
    """The application is not called for a queued request whose client has left."""
    called: list[str] = []
    pool = threadlets.Pool(limit=1)

    def app(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        called.append("app")
        gate.wait()
        start_response("200 OK", [])
        return [b"answer"]

    async def main() -> bytes:
        first, second = (Connection(wsgi(app, pool=pool)) for _ in range(2))
        await gate.arrivals(1)
        second.left.set()
        for _ in range(10):
            await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(first.task, second.task)
        return first.body + second.body

    assert b"answer" == run_on_threadlets(main())
    assert ["app"] == called


def test_a_request_that_is_cancelled_while_it_is_sent_is_cancelled(run_on_both: Any) -> None:
    """The application has ended, and the rest of its answer waits for the client."""

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"answer"]

    async def main() -> bool:
        connection = Connection(wsgi(app))
        connection.may_send.clear()
        for _ in range(20):
            await asyncio.sleep(0.001)
        await connection.end("cancelled")
        return connection.task.cancelled()

    assert run_on_both(main())


# -- served ----------------------------------------------------------------------------------------

_SERVED = """
import time
from threadlets.frameworks import wsgi

live, ended = set(), []


def events(name, part):
    live.add(name)
    try:
        while True:
            time.sleep(0.01)
            yield part
    finally:
        live.discard(name)
        ended.append(name)
        print("ended", name, flush=True)


def app(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [])
    if path == "/ended":
        return [repr(sorted(ended)).encode()]
    if path == "/live":
        return [repr(sorted(live)).encode()]
    if path == "/upload":
        live.add(path)
        try:
            environ["wsgi.input"].read()
        except OSError:
            ended.append(path)
        return [b"read"]
    return events(path, b"x" * 100_000 if path == "/large" else b"x")


application = wsgi(app)


async def recorded(scope, receive, send):
    await application(scope, receive, send)
    if scope["type"] == "lifespan":
        print("lifespan is over", flush=True)
"""


@pytest.mark.starts("auto")
def test_served_responses_end_with_their_clients(tmp_path: Path) -> None:
    """Small parts, large ones that are not received, a broken upload; then the server stops.

    A response whose client stays ends with the server, within the grace period, as lifespan does.
    """
    (tmp_path / "served.py").write_text(_SERVED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--timeout-graceful-shutdown", "1"]
    # A pipe would be filled by the access log, so use a file.
    with (tmp_path / "output").open("wb") as output_file:
        server = subprocess.Popen(
            [sys.executable, "-m", "threadlets", "serve", "served:recorded", *options],
            cwd=tmp_path,
            stdout=output_file,
            stderr=subprocess.STDOUT,
        )
    try:
        _await_port(port)
        for request in (
            b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n",
            b"POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nhalf",
        ):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(request)
                if b"GET" in request:
                    assert client.recv(64)
                else:
                    # The application is not called if its client leaves before it has begun.
                    wait_until(lambda: "/upload" in _get(port, "/live"))
        expected = "['/large', '/small', '/upload']"
        wait_until(lambda: _get(port, "/ended") == expected)
        with socket.create_connection(("127.0.0.1", port)) as stays:
            stays.sendall(b"GET /stays HTTP/1.1\r\nhost: x\r\n\r\n")
            assert stays.recv(64)
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=DEADLINE_S)
    finally:
        server.kill()
        server.wait()
    output = (tmp_path / "output").read_text()
    assert "ended /stays" in output
    assert "lifespan is over" in output


def _await_port(port: int) -> None:
    while True:
        try:
            _get(port, "/ended")
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return


def _get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text
