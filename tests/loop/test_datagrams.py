"""Datagram endpoints."""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import Any

import pytest

from .harness import DEADLINE_S, LoopFactory, Run, ticks


class Letters(asyncio.DatagramProtocol):
    """A protocol that keeps the datagrams and errors that it is given."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.lost = asyncio.Event()
        self._news = asyncio.Event()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((data, addr))
        self._news.set()

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    async def news(self) -> None:
        """Wait for a datagram or an error."""
        await self._news.wait()
        self._news.clear()


async def endpoint(**options: Any) -> tuple[Any, Letters]:
    """Make a datagram endpoint on a free port of this machine, unless the options say otherwise."""
    options = {"local_addr": ("127.0.0.1", 0)} | options
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(Letters, **options)


def test_datagrams_go_there_and_back(run: Run) -> None:
    """The datagrams of a UDP echo arrive one by one, with their addresses."""

    async def main() -> None:
        (ours, received), (theirs, echoed) = await endpoint(), await endpoint()
        for n in range(20):
            ours.sendto(b"%d" % n, theirs.get_extra_info("sockname"))
            await echoed.news()
            data, address = echoed.received[-1]
            theirs.sendto(data, address)
            await received.news()
            assert (b"%d" % n, theirs.get_extra_info("sockname")) == received.received[-1]
        for transport, protocol in ((ours, received), (theirs, echoed)):
            transport.close()
            await protocol.lost.wait()

    run(main())


def test_error_of_a_connected_endpoint_is_received(run: Run) -> None:
    """A datagram to a port without a listener gives ConnectionRefusedError to `error_received`."""

    async def main() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as closed:
            closed.bind(("127.0.0.1", 0))
            address = closed.getsockname()
        transport, protocol = await endpoint(remote_addr=address, local_addr=None)
        transport.sendto(b"anybody?")
        await protocol.news()
        assert isinstance(protocol.errors[0], ConnectionRefusedError)
        transport.close()
        await protocol.lost.wait()

    run(main())


def test_wrong_destination_is_refused(run: Run) -> None:
    """A connected endpoint sends to its peer only, and text is refused as a datagram."""

    async def main() -> None:
        theirs, _ = await endpoint()
        ours, protocol = await endpoint(remote_addr=theirs.get_extra_info("sockname"))
        with pytest.raises(ValueError, match="address"):
            ours.sendto(b"x", ("127.0.0.1", 1))
        with pytest.raises(TypeError):
            ours.sendto("text")
        ours.close()
        theirs.close()
        await protocol.lost.wait()

    run(main())


def test_aborted_endpoint_is_lost(run: Run) -> None:
    """`abort` calls `connection_lost` and closes the socket."""

    async def main() -> None:
        transport, protocol = await endpoint()
        transport.abort()
        await protocol.lost.wait()
        await ticks(1)
        assert -1 == transport.get_extra_info("socket").fileno()

    run(main())


def test_interrupt_in_a_protocol_loses_one_datagram_only(loop_factory: LoopFactory) -> None:
    """KeyboardInterrupt leaves the run; the next run receives the datagrams that waited."""
    loop = loop_factory()

    class Interrupted(Letters):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            super().datagram_received(data, addr)
            if len(self.received) == 1:
                raise KeyboardInterrupt

    async def run_until(n_received: int) -> None:
        while len(protocol.received) < n_received:
            await protocol.news()

    transport, protocol = loop.run_until_complete(
        loop.create_datagram_endpoint(Interrupted, local_addr=("127.0.0.1", 0))
    )
    address = transport.get_extra_info("sockname")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for datagram in (b"one", b"two", b"three"):
            sock.sendto(datagram, address)
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(run_until(3))
        loop.run_until_complete(asyncio.wait_for(run_until(3), DEADLINE_S / 5))
        assert [b"one", b"two", b"three"] == [data for data, _ in protocol.received]
    finally:
        transport.abort()
        loop.run_until_complete(ticks(3))
        loop.close()
        gc.collect()
