"""`--limit-connections`: clients beyond the limit wait in the backlog, and are served when others leave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import servers
import threadlets
from messages import Connection
from servers import Server, StartServer
from threadlets.http import serve
from websocket_kit import on_a_loop

_OURS = pytest.mark.skipif(servers.chosen_kind() != servers.OURS, reason="of our own server")
pytestmark = _OURS

_REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
#: What does not come within this time does not come: it is there in a hundredth of it otherwise.
_NOTHING_S = 0.3


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


class _Client:
    """A connection that has sent a request."""

    def __init__(self, address: Any) -> None:
        self.address = address

    async def __aenter__(self) -> _Client:
        self._reader, self._writer = await asyncio.open_connection(*self.address)
        self._writer.write(_REQUEST)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def answer(self) -> bytes:
        return await self._reader.readuntil(b"\r\n\r\n")

    async def is_waiting(self) -> bool:
        """Whether no answer comes."""
        try:
            await asyncio.wait_for(self._reader.read(1), _NOTHING_S)
        except TimeoutError:
            return True
        return False


@contextlib.asynccontextmanager
async def _serving(n_listeners: int, **options: Any) -> AsyncIterator[list[Any]]:
    with contextlib.ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n_listeners)
        ]
        ready = asyncio.Event()
        settings: dict[str, Any] = {"access_log": None, "lifespan": "off", **options}
        task = asyncio.create_task(
            serve(_app, sockets=listeners, on_ready=lambda _: ready.set(), **settings)
        )
        await ready.wait()
        try:
            yield [it.getsockname() for it in listeners]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@on_a_loop
async def test_a_client_beyond_the_limit_waits_until_another_leaves() -> None:
    """It is neither closed nor refused."""
    async with (
        _serving(1, limit_connections=2) as [address],
        _Client(address) as first,
        _Client(address) as second,
    ):
        for client in (first, second):
            assert (await client.answer()).startswith(b"HTTP/1.1 204")
        async with _Client(address) as third:
            assert await third.is_waiting()
            await first.leave()
            assert (await third.answer()).startswith(b"HTTP/1.1 204")


@on_a_loop
async def test_all_who_wait_are_served_in_the_end() -> None:
    """Many more than the limit, each after another one."""
    async with _serving(1, limit_connections=3) as [address]:

        async def visit() -> bytes:
            async with _Client(address) as client:
                return await client.answer()

        answers = await asyncio.gather(*(visit() for _ in range(300)))
    assert {b"HTTP/1.1 204 No Content"} == {it.split(b"\r\n")[0] for it in answers}


@on_a_loop
async def test_listeners_take_turns() -> None:
    """Clients of one address do not keep those of another one out."""
    async with (
        _serving(2, limit_connections=1) as [first, second],
        contextlib.AsyncExitStack() as stack,
    ):
        holder = await stack.enter_async_context(_Client(first))
        await holder.answer()
        # Connected, they wait in the backlogs.
        addresses = [first] * 20 + [second] * 3
        waiting = [await stack.enter_async_context(_Client(it)) for it in addresses]
        assert await waiting[-1].is_waiting()
        served: list[Any] = []

        async def visit(client: _Client) -> None:
            await client.answer()
            served.append(client.address)
            await client.leave()

        visits = [asyncio.create_task(visit(it)) for it in waiting]
        await holder.leave()
        await asyncio.gather(*visits)
    assert 23 == len(served)
    assert 3 == served[:7].count(second)


@on_a_loop
async def test_a_listener_goes_on_when_the_clients_of_another_have_gone() -> None:
    """Those who came before have given up while they waited."""
    async with _serving(2, limit_connections=1) as [first, second], _Client(first) as holder:
        await holder.answer()
        async with _Client(first) as given_up, _Client(second) as patient:
            assert await given_up.is_waiting()
            await given_up.leave()
            await holder.leave()
            assert (await patient.answer()).startswith(b"HTTP/1.1 204")


@on_a_loop
async def test_pauses_are_counted() -> None:
    """Once while clients wait, however many; not at all if the limit was reached and nobody waits."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with _serving(1, limit_connections=1, metrics=f":{port}") as [address]:
        async with _Client(address) as holder:
            await holder.answer()
            assert 0 == await _n_pauses(port)
            async with _Client(address) as second, _Client(address) as third:
                assert await second.is_waiting()
                await holder.leave()
                await second.answer()
                await second.leave()
                await third.answer()
        n_pauses = await _n_pauses(port)
    # The third has waited twice: for the holder, and for the second.
    assert 2 == n_pauses


async def _n_pauses(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    (line,) = (it for it in text.splitlines() if it.startswith("threadlets_accepting_paused_total"))
    return int(line.split()[1])


def _cpu_s(server: Server) -> float:
    ticks = 0
    for pid in server.pids():
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.fixture(params=["uring", "workers"])
def full(request: pytest.FixtureRequest, shared_server: StartServer) -> Any:
    """Return a server of its own with its only connection, which is taken."""
    if request.param == "uring" and threadlets.engine().kind != "uring":
        pytest.skip("io_uring does not work here")
    os.environ["THREADLETS_ENGINE"] = request.param
    try:
        server = servers.start(
            servers.OURS, "--limit-connections", "1", "--timeout-keep-alive", "60"
        )
    finally:
        del os.environ["THREADLETS_ENGINE"]
    with Connection(server.address) as holder:
        holder.send(_REQUEST)
        assert 200 == holder.read_response().status
        yield server, holder
    server.stop()


def test_a_full_server_is_idle(full: tuple[Server, Connection]) -> None:
    """Clients that wait cost no time."""
    server, holder = full
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(Connection(server.address)) for _ in range(20)]
        for client in waiting:
            client.send(_REQUEST)
        time.sleep(_NOTHING_S)
        before_s = _cpu_s(server)
        time.sleep(1)
        assert _cpu_s(server) - before_s < 0.2
        holder.socket.close()
        assert 200 == waiting[0].read_response().status


def test_a_full_server_stops_gracefully(full: tuple[Server, Connection]) -> None:
    """It does not wait for clients that it has not accepted."""
    server, _ = full
    with Connection(server.address) as waiting:
        waiting.send(_REQUEST)
        time.sleep(_NOTHING_S)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert 0 == server.process.wait(20)
