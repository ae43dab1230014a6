"""Names and addresses."""

from __future__ import annotations

import asyncio
import socket

import pytest

from .harness import Run


def test_numeric_address_is_resolved(run: Run) -> None:
    """`getaddrinfo` of a number needs no name server."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert ("127.0.0.1", 80) in [info[4] for info in infos]

    run(main())


def test_local_name_is_resolved(run: Run) -> None:
    """`localhost` resolves to this machine."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo("localhost", 0, family=socket.AF_INET)
        assert "127.0.0.1" == infos[0][4][0]

    run(main())


def test_address_is_named(run: Run) -> None:
    """`getnameinfo` gives host and service, as numbers if asked."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert ("127.0.0.1", "80") == await loop.getnameinfo(("127.0.0.1", 80), flags)

    run(main())


def test_impossible_name_is_an_error(run: Run) -> None:
    """A host that cannot be an address gives socket.gaierror."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(socket.gaierror):
            await loop.getaddrinfo("300.300.300.300", 80, flags=socket.AI_NUMERICHOST)

    run(main())
