"""Thousands of pages through the proxy, and what the proxy refuses."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import threadlets

from examples.syslets import fetch, proxy
from examples.syslets.fetch import Page, fetch_all

_ROOT = Path(__file__).parents[2]
_N_FETCHES = 2000
_LARGE_BYTES = 3_000_000
_HOST = "127.0.0.1"

Address = tuple[str, int]


def _content(path: str) -> bytes:
    """Return the server's content at a path: a few bytes that depend on it, or many."""
    if path == "/large":
        return bytes(range(256)) * (_LARGE_BYTES // 256)
    return hashlib.sha512(path.encode()).digest() * (len(path) % 7)


class _Pages(http.server.BaseHTTPRequestHandler):
    """Answers with the content of the path, or 404 if the request is not in origin form."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/silence":
            self.close_connection = True
            return
        is_known = self.path.startswith("/") and self.path != "/missing"
        body = _content(self.path) if is_known else b"nothing here"
        self.send_response(200 if is_known else 404)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"5\r\nhello\r\n0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body) + (self.path == "/short")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256


@pytest.fixture
def server() -> Iterator[Address]:
    """Serve pages from threads, each of which has ended afterwards."""
    with _Server((_HOST, 0), _Pages) as serving:
        serving.daemon_threads = False
        thread = threading.Thread(target=serving.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield serving.server_address[:2]
        finally:
            serving.shutdown()
            thread.join()


@contextmanager
def _proxy() -> Iterator[Address]:
    """Run the proxy in a thread with a loop of its own."""
    stopping: list[Callable[[], object]] = []
    is_serving = threading.Event()

    async def main(listener: socket.socket) -> None:
        task = asyncio.ensure_future(proxy.serve(listener))
        stopping.append(lambda: loop.call_soon_threadsafe(task.cancel))
        loop = asyncio.get_running_loop()
        is_serving.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    with proxy.listening(_HOST, 0) as listener:
        thread = threading.Thread(target=lambda: threadlets.run(main(listener)))
        thread.start()
        is_serving.wait(10)
        try:
            yield listener.getsockname()
        finally:
            stopping[0]()
            thread.join(10)


def _say(address: Address, request: bytes) -> bytes:
    """Send bytes to the proxy as they are, and return all that it answers."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def _url(server: Address, path: str) -> str:
    return f"http://{server[0]}:{server[1]}{path}"


def test_two_thousand_pages_come_through_the_proxy(engine: str, server: Address) -> None:
    """They are fetched 64 at a time, each with the content that belongs to its address."""
    paths = [f"/{'page' * (number % 5)}{number}?n={number}" for number in range(_N_FETCHES)]
    urls = [_url(server, path) for path in paths]
    with _proxy() as through:
        pages = list(fetch_all(urls, through, depth=64))
    expected = [(url, Page(200, _content(path))) for url, path in zip(urls, paths, strict=True)]
    assert expected == pages


@pytest.mark.parametrize("is_direct", [True, False], ids=["direct", "proxy"])
def test_pages_of_every_kind_are_fetched(engine: str, server: Address, is_direct: bool) -> None:
    """Large, missing and chunked pages are fetched; a truncated one is an error."""
    urls = [_url(server, path) for path in ("/large", "/missing", "/chunked", "/short")]
    with _proxy() as through:
        pages = [page for _, page in fetch_all(urls, None if is_direct else through)]
    assert [Page(200, _content("/large")), Page(404, b"nothing here"), Page(200, b"hello")] == (
        pages[:3]
    )
    assert isinstance(pages[3], Exception)


def test_the_proxy_says_why_there_is_no_page(engine: str, server: Address) -> None:
    """The answer is 502 for a server that does not exist, and for one that does not answer."""
    with closing(socket.create_server((_HOST, 0))) as unused:
        refusing = unused.getsockname()
    urls = [_url(refusing, "/"), _url(server, "/silence")]
    with _proxy() as through:
        pages = [page for _, page in fetch_all(urls, through)]
    assert [502, 502] == [page.status for page in pages if isinstance(page, Page)]
    assert [True, False] == [b"refused" in page.body for page in pages if isinstance(page, Page)]


def test_a_server_that_does_not_exist_is_an_error(engine: str) -> None:
    """The error takes the place of the page."""
    with closing(socket.create_server((_HOST, 0))) as unused:
        refusing = unused.getsockname()
    [(_, error)] = fetch_all([_url(refusing, "/")])
    assert isinstance(error, ConnectionRefusedError)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"CONNECT host:443 HTTP/1.1\r\nHost: host\r\n\r\n", 501),
        (b"POST http://host/ HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 501),
        (b"GET http://host/ HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 501),
        (b"GET / HTTP/1.1\r\nHost: host\r\n\r\n", 400),
        (b"GET https://host/ HTTP/1.1\r\n\r\n", 400),
        (b"GET http://host:port/ HTTP/1.1\r\n\r\n", 400),
        (b"GET http://host/ HTTP/1.1\r\n folded: no\r\n\r\n", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET http://host/ HTTP/1.1\r\nx: " + b"x" * 3 * proxy.HEAD_BYTES_MAX, 431),
    ],
    ids=["connect", "post", "body", "path", "https", "port", "header", "nonsense", "endless"],
)
def test_the_proxy_refuses_what_it_does_not_relay(
    engine: str, request_: bytes, status: int
) -> None:
    """The answer is a status and a sentence, and the proxy continues to serve."""
    with _proxy() as through:
        answer = _say(through, request_)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
        assert b"501" in _say(through, b"CONNECT host:443 HTTP/1.1\r\n\r\n")


def test_a_request_may_come_in_pieces_and_a_client_may_leave(engine: str, server: Address) -> None:
    """A request may arrive byte by byte, and a client may leave before it has sent one."""
    request = f"GET {_url(server, '/a')} HTTP/1.1\r\nConnection: x\r\nX: y\r\n\r\n".encode()
    with _proxy() as through:
        socket.create_connection(through).close()
        with socket.create_connection(through, timeout=10) as connection:
            for byte in request:
                connection.send(bytes([byte]))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        with socket.create_connection(through) as connection:
            connection.sendall(b"GET ")
            # The proxy is stopped while a client is still connected.


def test_what_is_forwarded() -> None:
    """The proxy forwards the path, the host, and the headers that are meant for the server."""
    request = proxy.parsed(
        b"GET http://me:pw@host:81/a%20b?c=d HTTP/1.1\r\nHost: other\r\nAccept: */*\r\n"
        b"Proxy-Connection: keep-alive\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nX-Yours: 2"
    )
    assert ("host", 81) == (request.host, request.port)
    assert (
        b"GET /a%20b?c=d HTTP/1.1\r\nHost: host:81\r\naccept: */*\r\nx-yours: 2\r\n"
        b"Connection: close\r\n\r\n"
    ) == request.question


def test_the_commands_work_together(server: Address) -> None:
    """Proxy and fetcher are two processes; Ctrl-C ends the proxy."""
    module = [sys.executable, "-m", "examples.syslets.proxy", "--port", "0"]
    with subprocess.Popen(module, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            match = re.search(r"http://(\S+)", process.stdout.readline())
            assert match is not None
            fetcher = [sys.executable, "-m", "examples.syslets.fetch", "--proxy", match[1]]
            done = subprocess.run(
                [*fetcher, _url(server, "/a"), _url(server, "/missing")],
                cwd=_ROOT,
                stdout=subprocess.PIPE,
                text=True,
                timeout=30,
                check=True,
            )
            assert ["200", "404"] == [line.split()[0] for line in done.stdout.splitlines()]
            process.send_signal(signal.SIGINT)
            assert 0 == process.wait(10)
        finally:
            process.kill()


def test_what_is_no_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command refuses it in one sentence."""
    monkeypatch.setattr(sys, "argv", ["fetch", "https://host/"])
    assert 1 == fetch.main()
    assert "is not an http URL" in capsys.readouterr().err
