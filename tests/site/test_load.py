"""The load generator's own counts, against a server that answers when it is told to."""

from __future__ import annotations

import asyncio

import pytest

from examples.site import load
from examples.site.load import Outcome, Plan, new_outcome, put_load

_PLAN = Plan(n_connections=3, seconds=0.2, think_s=0.01)
_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"


class _Slow:
    """Answers pages and events at once, but echoes only after `release` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                if request.startswith(b"GET /ws"):
                    writer.write(_SWITCH)
                    await self._echo(reader, writer)
                elif request.startswith(b"GET /events"):
                    writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata: {}\n\n")
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client left.
        finally:
            writer.transport.abort()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, length = await reader.readexactly(2)
            mask = await reader.readexactly(4)
            masked = await reader.readexactly(length & 0x7F)
            text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))
            await self.release.wait()
            answer = text.removeprefix(b"/echo ")
            writer.write(bytes((0x81, len(answer))) + answer)


def _load_on_slow_server(*, release_when: str) -> Outcome:
    outcome = new_outcome(["json"])

    async def main() -> None:
        slow = _Slow()

        def show(phase: str, _elapsed_s: float) -> None:
            if phase == release_when:
                slow.release.set()

        server = await asyncio.start_server(slow.serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            await put_load("127.0.0.1", port, _PLAN, outcome, show)
            slow.release.set()

    asyncio.run(main())
    return outcome


def test_echo_in_flight_at_the_end_is_waited_for() -> None:
    """The answer to a message that was sent just before the end is waited for, and is no error."""
    outcome = _load_on_slow_server(release_when="last answers")
    assert {} == outcome.problems.counts
    assert 1 == len(outcome.echo.latencies_s)


def test_echo_that_never_comes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for the last answers is bounded, and those that are still missing are counted."""
    monkeypatch.setattr(load, "_ANSWER_GRACE_S", 0.05)
    outcome = _load_on_slow_server(release_when="never")
    assert {"websocket unanswered at the end": 1} == outcome.problems.counts
    assert 1 == outcome.echo.n_errors
