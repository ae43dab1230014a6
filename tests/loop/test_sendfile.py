"""Files sent through transports and sockets, between what is written before and after."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import pytest

from .harness import Recorder, Run, connected, socket_pair, turns

N_BYTES = 3 << 20


@pytest.fixture
def data(tmp_path: Path) -> tuple[bytes, Path]:
    """Random bytes, and a file of them."""
    content = os.urandom(N_BYTES)
    path = tmp_path / "data"
    path.write_bytes(content)
    return content, path


def test_file_comes_between_what_is_written_before_and_after(
    run: Run, data: tuple[bytes, Path]
) -> None:
    """Unsent data leaves first, then the file, then what is written after; reading goes on."""
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
    """Writing in the middle of a file is refused; a closed connection ends the sending."""
    _, path = data

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder) as connection:
            with path.open("rb") as file:
                connection.transport.write(bytes(N_BYTES))
                sending = asyncio.create_task(loop.sendfile(connection.transport, file))
                await turns(3)
                with pytest.raises(RuntimeError, match="sendfile is in progress"):
                    connection.transport.write(b"x")
                connection.peer.close()
                with pytest.raises(ConnectionError):
                    await sending

    run(main())


def test_file_that_is_no_file_is_copied(run: Run) -> None:
    """Without a descriptor the content is read and written instead, unless that is forbidden."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(Recorder) as connection:
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await loop.sendfile(connection.transport, io.BytesIO(b"x"), fallback=False)
            assert 7 == await loop.sendfile(connection.transport, io.BytesIO(b"content"))
            assert b"content" == await connection.take(7)

    run(main())


def test_closing_transport_sends_no_file(run: Run, data: tuple[bytes, Path]) -> None:
    """RuntimeError for a transport that is closing."""
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
