"""Protocols that raise: each failure is reported, and those of reading end the connection."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from .harness import DEADLINE_S, Recorder, Run, connected, note_failures, ticks


class Mishap(Exception):
    """The exception that protocols raise here."""


class Failing(Recorder):
    """A recorder that raises in one method, after recording the call."""

    fails_in = ""
    failure: type[BaseException] = Mishap

    def note(self, call: str) -> None:
        super().note(call)
        if call == self.fails_in:
            raise self.failure


def failing(method: str, base: type[Any] = Failing) -> type[Any]:
    """Make a protocol class that raises in the method that records this call."""
    return type("FailingThere", (base,), {"fails_in": method})


class FailingBuffered(Failing, asyncio.BufferedProtocol):
    """A buffered protocol that raises in one method."""

    lent: Any = None

    def get_buffer(self, sizehint: int) -> Any:
        self.note("get_buffer")
        return bytearray(10) if self.lent is None else self.lent

    def buffer_updated(self, nbytes: int) -> None:
        self.note("buffer_updated")


def test_failing_connection_made_is_reported(run: Run) -> None:
    """The exception handler is called, and the transport stays open until it is closed."""

    async def main() -> None:
        failures = note_failures()
        async with connected(failing("made")) as connection:
            assert [Mishap] == [type(failure["exception"]) for failure in failures]
            connection.transport.abort()
            await connection.protocol.lost.wait()

    run(main())


@pytest.mark.parametrize(
    ("method", "base"),
    [
        ("data", Failing),
        ("end", Failing),
        ("get_buffer", FailingBuffered),
        ("buffer_updated", FailingBuffered),
    ],
)
def test_failing_reader_loses_its_connection(run: Run, method: str, base: type[Any]) -> None:
    """A protocol that raises when it reads is reported with its transport, and gets the loss."""

    async def main() -> None:
        failures = note_failures()
        async with connected(failing(method, base)) as connection:
            connection.peer.send(b"data")
            connection.peer.shutdown(socket.SHUT_WR)
            protocol = connection.protocol
            await protocol.until(lambda: "lost" in protocol.calls)
            (failure,) = failures
            assert isinstance(failure["exception"], Mishap)
            assert "Fatal error" in failure["message"]
            assert connection.transport is failure["transport"]
            assert protocol is failure["protocol"]
            assert isinstance(protocol.error, Mishap)

    run(main())


@pytest.mark.parametrize("lent", [bytearray(), bytes(8), "text"])
def test_useless_buffer_is_a_failure(run: Run, lent: Any) -> None:
    """A buffer that is empty, read-only or no buffer is reported and ends the connection."""

    async def main() -> None:
        failures = note_failures()
        protocol_class = type("Lending", (FailingBuffered,), {"lent": lent})
        async with connected(protocol_class) as connection:
            connection.peer.send(b"data")
            await connection.protocol.lost.wait()
            assert 1 == len(failures)

    run(main())


@pytest.mark.parametrize("method", ["pause", "resume"])
def test_failing_flow_control_is_reported_and_the_connection_goes_on(run: Run, method: str) -> None:
    """An exception in `pause_writing` or `resume_writing` loses neither data nor connection."""
    n_bytes = 4 << 20

    async def main() -> None:
        failures = note_failures()
        async with connected(failing(method)) as connection:
            connection.transport.write(bytes(n_bytes))
            connection.transport.write(b"tail")
            received = await connection.take(n_bytes + 4)
            assert b"tail" == received[-4:]
            await ticks(2)
            (failure,) = failures
            assert isinstance(failure["exception"], Mishap)
            assert f"protocol.{method}_writing() failed" == failure["message"]
            assert not connection.transport.is_closing()

    run(main())


def test_failing_connection_lost_is_reported_and_the_socket_closed(run: Run) -> None:
    """The descriptor is closed even when `connection_lost` raises."""

    async def main() -> None:
        failures = note_failures()
        async with connected(failing("lost")) as connection:
            connection.transport.close()
            assert b"" == await connection.take_all()
            await ticks(2)
            assert [Mishap] == [type(failure["exception"]) for failure in failures]

    run(main())


@pytest.mark.parametrize("base", [Failing, FailingBuffered])
@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_what_ends_programs_passes_through_a_protocol(
    loop: asyncio.AbstractEventLoop, base: type[Any], ending: type[BaseException]
) -> None:
    """KeyboardInterrupt in a protocol leaves the run; in the next run the connection still ends."""
    method = "data" if base is Failing else "buffer_updated"
    protocol = type("Ending", (base,), {"fails_in": method, "failure": ending})()
    ours, peer = socket.socketpair()
    loop.run_until_complete(loop.create_connection(lambda: protocol, sock=ours))
    peer.send(b"data")
    peer.close()
    with pytest.raises(ending):
        loop.run_until_complete(protocol.lost.wait())
    protocol.fails_in = ""
    try:
        loop.run_until_complete(asyncio.wait_for(protocol.lost.wait(), DEADLINE_S / 5))
    finally:
        protocol.transport.abort()
        loop.run_until_complete(ticks(2))
    assert ["end", "lost"] == protocol.calls[-2:]
