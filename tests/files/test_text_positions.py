"""Text files: positions are the builtin's, and a cancelled call loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import threadlets

from .conftest import Run

#: Far more than is decoded at once.
N_CHARS = 40_000

#: What is read, by a file of either kind.
_READS: dict[str, Callable[[Any], Any]] = {
    "some": lambda file: file.read(20_000),
    "little": lambda file: file.read(10),
    "a part of a line": lambda file: file.readline(20_000),
    "nothing": lambda file: file.read(0),
}
_WRITES: dict[str, Callable[[Any], Any]] = {
    "write": lambda file: file.write("XYZ"),
    "truncate": lambda file: file.truncate(),
}


@pytest.mark.parametrize("encoding", ["ascii", "utf-16", "utf-8"])
@pytest.mark.parametrize("write", _WRITES)
@pytest.mark.parametrize("read", _READS)
def test_what_is_written_after_a_read_lands_where_the_builtin_puts_it(
    run: Run, tmp_path: Path, read: str, write: str, encoding: str
) -> None:
    """It lands behind what was decoded at once, which is as much as the builtin decodes."""
    char = "é" if encoding == "utf-8" else "a"
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for path in (theirs, ours):
        path.write_text(char * N_CHARS, encoding=encoding)
    with open(theirs, "r+", encoding=encoding) as file:
        _READS[read](file)
        _WRITES[write](file)

    async def main() -> None:
        async with threadlets.open(ours, "r+", encoding=encoding) as file:
            await _READS[read](file)
            await _WRITES[write](file)

    run(main())
    assert theirs.read_bytes() == ours.read_bytes()


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-16", "hello"), ("utf-8-sig", "hello"), ("iso2022_jp", "いう"), ("hz", "中")],
)
def test_a_cancelled_write_leaves_the_encoder_as_it_was(run: Run, encoding: str, text: str) -> None:
    """Nothing was sent, so a byte order mark, or a change of the alphabet, is still to come."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    n_before = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            n_before += os.write(writer, bytes(4096))
    os.set_blocking(writer, True)

    async def main() -> bytes:
        file = await threadlets.open(writer, "w", encoding=encoding)
        # This is more than the buffer's size, so it goes to the pipe, which has no room.
        writing = asyncio.create_task(file.write(text * 100_000))
        while not threadlets.engine().in_flight:
            await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        n_left = n_before
        while n_left:
            n_left -= len(os.read(reader, n_left))
        await file.write(text)
        await file.close()
        return os.read(reader, 65536)

    try:
        assert text == run(main()).decode(encoding)
    finally:
        os.close(reader)


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_cancelled_readlines_gives_back_its_lines(run: Run, mode: str) -> None:
    """The next read begins with the lines that had been read."""
    reader, writer = os.pipe()
    os.write(writer, b"one\ntwo\nthr")

    async def main() -> Any:
        async with threadlets.open(reader, mode) as file:
            reading = asyncio.create_task(file.readlines())
            while not threadlets.engine().in_flight:
                await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            os.write(writer, b"ee\n")
            os.close(writer)
            return await file.read()

    expected = b"one\ntwo\nthree\n"
    assert (expected if mode == "rb" else expected.decode()) == run(main())


def test_cancelled_readlines_of_a_file_can_tell_where_it_stands(run: Run, tmp_path: Path) -> None:
    """`tell` gives what it gave before, and the next line is the same."""
    path = tmp_path / "file"
    path.write_text("".join(f"{n:07}é\n" for n in range(200_000)))

    async def main() -> None:
        async with threadlets.open(path) as file:
            first = await file.readline()
            position = await file.tell()
            reading = asyncio.create_task(file.readlines())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not reading.done()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert position == await file.tell()
            assert ("0000000é\n", "0000001é\n") == (first, await file.readline())

    run(main())


def test_a_folders_descriptor_stays_its_owners(run: Run, tmp_path: Path) -> None:
    """A descriptor that cannot be opened as a file is not closed."""
    fd = os.open(tmp_path, os.O_RDONLY)

    async def main() -> None:
        with pytest.raises(IsADirectoryError) as raised:
            await threadlets.open(fd)
        assert fd == raised.value.filename

    try:
        run(main())
        os.fstat(fd)
    finally:
        os.close(fd)


def test_atomic_writes_of_one_file_race_and_the_last_one_wins(run: Run, tmp_path: Path) -> None:
    """No write is refused because another one has just replaced the file."""
    path = tmp_path / "file"
    path.write_bytes(b"0")

    async def write(data: bytes) -> None:
        for _ in range(30):
            await threadlets.write_file(path, data, atomic=True)
            await asyncio.sleep(0)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for data in (b"1", b"2", b"3"):
                group.create_task(write(data))

    run(main())
    assert path.read_bytes() in (b"1", b"2", b"3")
    assert ["file"] == os.listdir(tmp_path)
