"""Files are sent through transports and sockets, in order with the writes before and after."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import pytest

from .harness import Recorder, Run, connected, socket_pair, ticks

N_BYTES = 3 << 20


@pytest.fixture
def data(tmp_path: Path) -> tuple[bytes, Path]:
    """Return random bytes, and a file that holds them."""
    content = os.urandom(N_BYTES)
    path = tmp_path / "data"
    path.write_bytes(content)
    return content, path


def test_file_comes_between_what_is_written_before_and_after(
    run: Run, data: tuple[bytes, Path]
) -> None:
    """Unsent data leaves first, then the file, then later writes; reading goes on."""
    content, path = data

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder, tcp=True) as connection:
            before = os.urandom(N_BYTES)
            taking = asyncio.create_task(connection.take_all())
            with path.open("rb") as file:
                for _ in range(2):
                    connection.transport.write(before)
                    file.seek(0)
                    assert N_BYTES == await loop.sendfile(connection.transport, file)
                connection.transport.write(b"after")
                connection.peer.send(b"answer")
                assert b"answer" == await connection.protocol.receive(6)
                connection.transport.close()
                assert (before + content) * 2 + b"after" == await taking

    run(main())


def test_part_of_a_file_is_sent(run: Run, data: tuple[bytes, Path]) -> None:
    """Offset and count choose the part, and the file's position follows."""
    content, path = data

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder) as connection:
            with path.open("rb") as file:
                assert 500 == await loop.sendfile(connection.transport, file, 100, 500)
                assert 600 == file.tell()
            assert content[100:600] == await connection.take(500)

    run(main())


def test_transport_takes_no_writes_while_a_file_is_sent(run: Run, data: tuple[bytes, Path]) -> None:
    """A write is refused while a file is sent; a closed connection ends the sending."""
    _, path = data

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder) as connection:
            with path.open("rb") as file:
                connection.transport.write(bytes(N_BYTES))
                sending = asyncio.create_task(loop.sendfile(connection.transport, file))
                await ticks(3)
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    connection.transport.write(b"x")
                connection.peer.close()
                with pytest.raises(ConnectionError):
                    await sending

    run(main())


def test_file_that_is_no_file_is_copied(run: Run) -> None:
    """A file without a descriptor is read and written instead, unless `fallback` is false."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder) as connection:
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sendfile(connection.transport, io.BytesIO(b"x"), fallback=False)
            assert 7 == await loop.sendfile(connection.transport, io.BytesIO(b"content"))
            assert b"content" == await connection.take(7)

    run(main())


def test_closing_transport_sends_no_file(run: Run, data: tuple[bytes, Path]) -> None:
    """A closing transport refuses to send a file with RuntimeError."""
    _, path = data

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder) as connection:
            connection.transport.close()
            with path.open("rb") as file, pytest.raises(RuntimeError, match="closing"):
                await loop.sendfile(connection.transport, file)

    run(main())


def test_socket_sends_a_file(run: Run, data: tuple[bytes, Path]) -> None:
    """`sock_sendfile` waits for room as often as needed."""
    content, path = data

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket_pair() as (ours, theirs), path.open("rb") as file:
            sending = asyncio.create_task(loop.sock_sendfile(ours, file))
            received = bytearray()
            while len(received) < N_BYTES:
                received += await loop.sock_recv(theirs, 1 << 18)
            assert N_BYTES == await sending
            assert content == received

    run(main())
