"""The server's answers to clients that behave in unusual ways."""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus

import pytest
import threadlets
from serving import Served, client, encoded, hello, received, rest, run, serving, vanish
from waiting import eventually

from examples.scopes.answer import Answer
from examples.scopes.http import Request

_PIECE = b"x" * 65536
_FOR_EVER_S = 250.0


class _Steps:
    """A handler that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.paths: list[str] = []

    async def __call__(self, request: Request, answer: Answer) -> None:
        self.paths.append(request.path)
        self.began.set()
        await self.go_on.wait()
        await answer.whole(HTTPStatus.OK, request.path.encode())


async def _endless(_request: Request, answer: Answer) -> None:
    await answer.start(HTTPStatus.OK, "application/octet-stream")
    while True:
        await answer.send(_PIECE)


def test_client_that_ends_its_half_gets_its_answer() -> None:
    """The server probes until the handler is done, and then the client gets its answer."""

    async def story() -> None:
        steps = _Steps()
        async with serving(steps) as served:
            sock = client(served.address, encoded("/a"))
            sock.shutdown(socket.SHUT_WR)
            await steps.began.wait()
            probe = await received(sock, b"\r\n\r\n")
            assert b"HTTP/1.1 100 Continue\r\n\r\n" == probe
            await received(sock, b"HTTP/1.1 100 Continue\r\n\r\n")
            steps.go_on.set()
            assert (await rest(sock)).endswith(b"\r\n\r\n/a")
            await served.empty()
            assert (1, 0, 0) == served.ends()

    run(story)


def test_client_that_closes_is_found_out() -> None:
    """Closing looks like ending one half, until the server sends something."""

    async def story() -> None:
        steps = _Steps()
        async with serving(steps) as served:
            sock = client(served.address, encoded("/a"))
            await steps.began.wait()
            vanish(sock, by_reset=False)
            await served.empty()
            assert (0, 1, 0) == served.ends()

    run(story)


def test_old_client_that_ends_its_half_is_not_asked() -> None:
    """HTTP/1.0 has no interim answers."""

    async def story() -> None:
        steps = _Steps()
        async with serving(steps) as served:
            sock = client(served.address, encoded("/a", version="1.0"))
            sock.shutdown(socket.SHUT_WR)
            await steps.began.wait()
            # Long enough for the server to see the end, which does not end the request.
            await asyncio.sleep(0.05)
            steps.go_on.set()
            assert (await rest(sock)).startswith(b"HTTP/1.1 200 OK\r\n")

    run(story)


@pytest.mark.parametrize("ends_its_half", [True, False])
def test_pipelined_requests_are_answered_in_order(ends_its_half: bool) -> None:
    """They are answered one after the other, each in a scope of its own."""

    async def story() -> None:
        steps = _Steps()
        steps.go_on.set()
        async with serving(steps) as served:
            paths = [f"/{n}" for n in range(50)]
            last = encoded("/last", "connection: close")
            sock = client(served.address, *map(encoded, paths), last)
            if ends_its_half:
                sock.shutdown(socket.SHUT_WR)
            # The server may probe a client that has ended its half.
            received = (await rest(sock)).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
            answers = received.split(b"HTTP/1.1 200 OK\r\n")[1:]
            assert [*paths, "/last"] == [it.split(b"\r\n\r\n")[1].decode() for it in answers]
            await served.empty()
            assert [*paths, "/last"] == steps.paths
            assert (51, 0, 0) == served.ends()

    run(story)


@pytest.mark.parametrize("by_reset", [True, False])
def test_pipelined_requests_of_a_client_that_has_gone_are_not_begun(by_reset: bool) -> None:
    """Only the first request has begun; the others are dropped with the connection."""

    async def story() -> None:
        steps = _Steps()
        async with serving(steps) as served:
            sock = client(served.address, *[encoded(f"/{n}") for n in range(50)])
            await steps.began.wait()
            vanish(sock, by_reset=by_reset)
            await served.empty()
            assert ["/0"] == steps.paths
            assert (0, 1, 0) == served.ends()

    run(story)


def test_flood_of_pipelined_requests_waits_in_the_kernel() -> None:
    """The server reads no more than it has room for, and answers all requests in the end."""

    async def story() -> None:
        steps = _Steps()
        async with serving(steps) as served:
            question = encoded("/a", f"x-padding: {'p' * 8000}")
            n_questions = 400
            loop = asyncio.get_running_loop()
            sock = client(served.address)
            asking = asyncio.create_task(loop.sock_sendall(sock, question * n_questions))
            await steps.began.wait()
            # Long enough for the server to receive all, if it did not pause.
            await asyncio.sleep(0.1)
            (connection,) = served.server.connections
            assert len(connection._received) < 2 * 2**20
            steps.go_on.set()
            listening = asyncio.create_task(rest(sock))
            await asking
            sock.shutdown(socket.SHUT_WR)
            assert n_questions == (await listening).count(b"HTTP/1.1 200 OK\r\n")

    run(story)


@pytest.mark.parametrize("by_reset", [True, False])
def test_client_that_vanishes_in_the_middle_of_the_body(by_reset: bool) -> None:
    """Its request is cancelled while it sends, or waits for room to send."""

    async def story() -> None:
        async with serving(_endless) as served:
            sock = client(served.address, encoded("/a"))
            head = await asyncio.get_running_loop().sock_recv(sock, 1000)
            assert b"transfer-encoding: chunked" in head
            vanish(sock, by_reset=by_reset)
            await served.empty()
            assert (0, 1, 0) == served.ends()
            assert [] == served.reported

    run(story)


def test_slow_client_is_waited_for() -> None:
    """It gets everything; meanwhile the server buffers little of it, and answers others."""

    async def story() -> None:
        n_pieces, n_sent = 100, 0

        async def handle(request: Request, answer: Answer) -> None:
            nonlocal n_sent
            if request.path == "/hello":
                return await hello(request, answer)
            await answer.start(HTTPStatus.OK, "application/octet-stream")
            for _ in range(n_pieces):
                await answer.send(_PIECE)
                n_sent += 1
            return None

        async with serving(handle) as served:
            slow = client(served.address, encoded("/slow", version="1.0"), receive_bytes=65536)
            await eventually(lambda: n_sent > 0)
            for _ in range(20):
                quick = client(served.address, encoded("/hello", "connection: close"))
                assert (await rest(quick)).endswith(b"hello")
            assert n_sent < n_pieces
            (connection,) = served.server.connections
            assert connection._transport.get_write_buffer_size() < 3 * len(_PIECE)
            body = (await rest(slow)).partition(b"\r\n\r\n")[2]
            assert len(body) == n_pieces * len(_PIECE)
            await served.empty()
            assert (21, 0, 0) == served.ends()

    run(story)


def test_client_that_takes_nothing_has_gone() -> None:
    """A request does not wait for ever for room to send."""

    async def story() -> None:
        async with serving(_endless, stall_s=0.1) as served:
            sock = client(served.address, encoded("/a"), receive_bytes=8192)
            await eventually(lambda: served.server.counts.begun == 1)
            await served.empty()
            assert (0, 1, 0) == served.ends()
            sock.close()

    run(story)


def test_client_that_asks_nothing_is_closed() -> None:
    """A client that sends its head too slowly is closed."""

    async def story() -> None:
        async with serving(hello, idle_s=0.2) as served:
            sock = client(served.address, b"GET / HT")
            await eventually(lambda: len(served.server.connections) == 1)
            sock.send(b"TP/1.1")
            assert b"" == await rest(sock)
            await served.empty()
            assert (0, 0, 0) == served.ends()

    run(story)


def test_request_may_come_byte_by_byte() -> None:
    """The next request on the same connection may do so as well."""

    async def story() -> None:
        async with serving(hello) as served:
            sock = client(served.address)
            for _ in range(2):
                for byte in encoded("/a"):
                    sock.send(bytes((byte,)))
                    await asyncio.sleep(0)
                assert (await received(sock, b"hello")).startswith(b"HTTP/1.1 200")
            sock.close()
            await served.empty()
            assert (2, 0, 0) == served.ends()

    run(story)


def test_what_is_no_request_is_refused() -> None:
    """The answer is a sentence with status 400, and the connection is closed."""

    async def story() -> None:
        async with serving(hello) as served:
            sock = client(served.address, encoded("/a"), b"NONSENSE\r\n\r\n", encoded("/b"))
            answers = await rest(sock)
            assert 2 == answers.count(b"HTTP/1.1 ")
            assert b"HTTP/1.1 400 Bad Request\r\n" in answers
            assert answers.endswith(b"this is not a request of HTTP/1.1\n")

    run(story)


@pytest.mark.parametrize("is_started", [True, False])
def test_failure_is_reported_and_told(is_started: bool) -> None:
    """The client gets 500, or no last chunk if a part was sent; others are still answered."""

    async def story() -> None:
        async def handle(request: Request, answer: Answer) -> None:
            if request.path == "/hello":
                return await hello(request, answer)
            if is_started:
                await answer.start(HTTPStatus.OK, "text/plain")
                await answer.send(b"part")
            raise LookupError("nothing there")

        async with serving(handle) as served:
            sock = client(served.address, encoded("/a", "connection: close"))
            loop = asyncio.get_running_loop()
            answer = await loop.sock_recv(sock, 65536)
            assert answer.startswith(b"HTTP/1.1 200" if is_started else b"HTTP/1.1 500")
            assert not answer.endswith(b"0\r\n\r\n")
            sock.close()
            await served.empty()
            (report,) = served.reported
            assert "answering GET /a failed" == report["message"]
            sock = client(served.address, encoded("/hello", "connection: close"))
            assert (await rest(sock)).endswith(b"hello")
            await served.empty()
            assert (1, 0, 1) == served.ends()

    run(story)


def test_clients_vanish_while_the_server_stops() -> None:
    """A request that both the client and the server cancel ends once."""

    async def story() -> None:
        async def handle(_request: Request, _answer: Answer) -> None:
            async with threadlets.Scope() as scope:
                scope.start(threadlets.sleep(_FOR_EVER_S))
                await asyncio.sleep(_FOR_EVER_S)

        found: list[Served] = []
        async with serving(handle) as served:
            found.append(served)
            socks = [client(served.address, encoded("/a")) for _ in range(100)]
            await eventually(lambda: served.server.counts.begun == 100)
            for n, sock in enumerate(socks):
                vanish(sock, by_reset=n % 2 == 0)
        assert (0, 100, 0) == found[0].ends()
        assert [] == found[0].reported

    run(story)
