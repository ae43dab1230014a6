"""What the builtin `open` does not have: files shared by tasks, cancellation, forgotten files."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path
from typing import Any

import pytest
import threadlets

from .conftest import Run


@pytest.fixture
def pipe(run: Run) -> Any:
    """Both ends of a pipe."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def test_it_is_awaited_or_entered(run: Run, tmp_path: Path) -> None:
    """Either way gives the same file, and leaving the block closes it."""

    async def main() -> None:
        async with threadlets.open(tmp_path / "file", "w") as file:
            await file.write("some")
        assert file.closed
        file = await threadlets.open(tmp_path / "file")
        async with file:
            assert "some" == await file.read()
        assert file.closed
        await file.close()

    run(main())


def test_a_closed_file_does_nothing(run: Run, tmp_path: Path) -> None:
    """Every method but close says that it is closed."""

    async def main() -> None:
        file = await threadlets.open(tmp_path / "file", "w+b")
        await file.close()
        calls: list[tuple[str, tuple[Any, ...]]] = [
            *((name, ()) for name in ("read", "read1", "peek", "readline", "readlines", "tell")),
            *((name, ()) for name in ("flush", "fsync", "truncate", "__anext__", "__aenter__")),
            *((name, (bytearray(1),)) for name in ("readinto", "readinto1", "write")),
            *(("writelines", ([],)), ("seek", (0,))),
        ]
        for name, args in calls:
            with pytest.raises(ValueError, match="closed file"):
                await getattr(file, name)(*args)
        for name in ("fileno", "isatty", "readable", "writable", "seekable", "__aiter__"):
            with pytest.raises(ValueError, match="closed file"):
                getattr(file, name)()

    run(main())


def test_what_a_file_is_not_open_for_is_unsupported(run: Run, tmp_path: Path) -> None:
    """A file that is write-only, read-only, of text, or a pipe refuses what it cannot do."""

    async def main() -> None:
        (tmp_path / "file").touch()
        for mode, calls in (
            ("wb", (("read", ()), ("readline", ()), ("readinto", (bytearray(1),)))),
            ("w", (("read", ()), ("readline", ()), ("read1", ()), ("peek", ()))),
            ("r", (("write", ("x",)), ("truncate", ()), ("readinto", (bytearray(1),)))),
            ("rb", (("write", (b"x",)), ("truncate", ()))),
        ):
            async with threadlets.open(tmp_path / "file", mode) as file:
                for name, args in calls:
                    with pytest.raises(io.UnsupportedOperation):
                        await getattr(file, name)(*args)
                if mode == "w":
                    with pytest.raises(io.UnsupportedOperation):
                        await anext(file)

    run(main())


def test_a_forgotten_file_is_closed_with_a_warning(run: Run, tmp_path: Path) -> None:
    """The content of its buffer is written, as by the builtin."""

    async def main() -> None:
        file = await threadlets.open(tmp_path / "file", "w")
        await file.write("kept")
        with pytest.warns(ResourceWarning, match="unclosed file <AsyncFile name="):
            del file

    run(main())
    assert b"kept" == (tmp_path / "file").read_bytes()


def test_a_descriptor_may_stay_open(run: Run, pipe: list[int]) -> None:
    """With `closefd=False` the descriptor stays open for its owner, and there is no warning."""

    async def main() -> None:
        async with threadlets.open(pipe[1], "wb", closefd=False) as file:
            await file.write(b"x")
        file = await threadlets.open(pipe[0], "rb", closefd=False)
        assert b"x" == await file.read(1)
        del file

    run(main())
    os.fstat(pipe[0])


def test_tasks_take_turns(run: Run, tmp_path: Path) -> None:
    """Each line that a task writes is whole, and each is read once."""

    async def main() -> None:
        async with threadlets.open(tmp_path / "file", "w") as file:

            async def write(letter: str) -> None:
                for _ in range(200):
                    await file.write(letter * 999 + "\n")

            async with asyncio.TaskGroup() as group:
                for letter in "abcd":
                    group.create_task(write(letter))
        lines: list[str] = []
        async with threadlets.open(tmp_path / "file") as file:

            async def read() -> None:
                async for line in file:
                    lines.append(line)

            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(read())
        assert sorted(letter * 999 + "\n" for letter in "abcd" * 200) == sorted(lines)

    run(main())


def test_a_cancelled_read_loses_nothing(run: Run, pipe: list[int]) -> None:
    """The next read gives what had come already, be it bytes, lines or text."""

    async def main() -> None:
        async with threadlets.open(pipe[0], "rb", closefd=False) as file:
            for call in (file.read(5), file.readline(), file.readinto(bytearray(5)), file.read()):
                reading = asyncio.create_task(call)
                await asyncio.sleep(0)
                os.write(pipe[1], b"a")
                await asyncio.sleep(0.01)
                assert not reading.done(), "it gave less than was asked for"
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            os.write(pipe[1], b"b\nrest")
            assert b"aaaab\n" == await file.readline()
            assert b"rest" == await file.read(4)
        async with threadlets.open(pipe[0], closefd=False) as text:
            for part in (b"\xc3", b"\xa9", b"x"):
                reading = asyncio.create_task(text.read(9))
                await asyncio.sleep(0)
                os.write(pipe[1], part)
                await asyncio.sleep(0.01)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
            os.write(pipe[1], b"\r\n")
            assert "éx" == await text.read(2)

    run(main())


def test_a_time_out_is_a_time_out(run: Run, pipe: list[int]) -> None:
    """A cancelled call raises plain CancelledError, which asyncio.timeout recognizes."""

    async def main() -> None:
        async with threadlets.open(pipe[0], "rb", closefd=False) as file:
            for call in (file.read, file.read1, file.readline):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await call()
        async with threadlets.open(pipe[1], "wb", closefd=False) as file:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await file.write(b"x" * 200_000)

    run(main())


@pytest.mark.parametrize("buffering", [0, 4096])
def test_a_cancelled_read_gives_back_what_only_a_part_was_cached_of(
    run: Run, tmp_path: Path, buffering: int
) -> None:
    """The next read gives the same bytes, whether the kernel was stopped in time or not."""
    path, size = tmp_path / "file", 3 * 4096
    data = os.urandom(10 * size)
    path.write_bytes(data)

    async def main() -> None:
        async with threadlets.open(path, "r+b", buffering=buffering) as file:
            await file.fsync()
            for number in range(9):
                position = number * size
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                os.pread(file.fileno(), 1, position)
                reading = asyncio.create_task(file.read(size))
                await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])
                if not reading.cancelled():
                    assert data[position : position + size] == reading.result()
                    await file.seek(position)
                parts = b""
                while len(parts) < size:
                    parts += await file.read(size - len(parts))
                assert data[position : position + size] == parts
                assert position + size == await file.tell()

    run(main())


def test_a_cancelled_read_to_the_end_is_cancelled_whenever_that_comes(
    run: Run, tmp_path: Path
) -> None:
    """This holds even if the run has succeeded; the next read begins where this one did."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(64 << 20)

    async def main() -> None:
        async with threadlets.open(path, "rb") as file:
            await file.seek(1)
            for number in range(20):
                reading = asyncio.create_task(file.read())
                await asyncio.sleep(number * 0.001)
                if reading.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await reading
                else:
                    assert (64 << 20) - 1 == len(await reading)
                    await file.seek(1)
                assert 1 == await file.tell()

    run(main())


def test_what_was_to_be_written_outlives_a_cancelled_flush(run: Run, tmp_path: Path) -> None:
    """Nothing is written twice, and nothing is left out."""

    async def main() -> None:
        async with threadlets.open(tmp_path / "file", "wb", 10_000_000) as file:
            data = os.urandom(9_000_000)
            await file.write(data)
            for _ in range(5):
                flushing = asyncio.create_task(file.flush())
                await asyncio.sleep(0)
                flushing.cancel()
                await asyncio.wait([flushing])
        assert data == (tmp_path / "file").read_bytes()

    run(main())


@pytest.mark.parametrize("n_ticks", range(4))
def test_a_cancelled_open_leaves_no_descriptor(run: Run, tmp_path: Path, n_ticks: int) -> None:
    """It leaves none whether the file was open by then or not; the fixture counts."""
    os.mkfifo(tmp_path / "fifo")

    async def main() -> None:
        opening = asyncio.ensure_future(_open(tmp_path / "fifo"))
        await asyncio.sleep(0)
        writer = os.open(tmp_path / "fifo", os.O_RDWR)
        for _ in range(n_ticks):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        os.close(writer)
        if not opening.cancelled():
            await opening.result().close()

    async def _open(path: Path) -> Any:
        return await threadlets.open(path, "rb")

    run(main())


def test_readinto_reads_right_into_the_memory(run: Run, tmp_path: Path) -> None:
    """It also reads into a part of memory, and refuses memory that cannot be written to."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)

    async def main() -> None:
        memory = bytearray(300_000)
        async with threadlets.open(path, "rb") as file:
            assert b"\0\1" == await file.read(2)
            assert 255_998 == await file.readinto(memoryview(memory)[10:])
            assert 0 == await file.readinto(memory)
            with pytest.raises(TypeError):
                await file.readinto(b"constant")
            with pytest.raises(TypeError):
                await file.readinto("text")
        assert (bytes(range(256)) * 1000)[2:] == bytes(memory[10 : 10 + 255_998])

    run(main())


def test_writes_of_other_types_are_refused(run: Run, tmp_path: Path) -> None:
    """Binary files refuse text, and text files bytes."""

    async def main() -> None:
        for mode, data in (("wb", "text"), ("w", b"bytes"), ("wb", None), ("w", 7)):
            async with threadlets.open(tmp_path / "file", mode) as file:
                with pytest.raises(TypeError):
                    await file.write(data)

    run(main())


def test_an_opener_may_block(run: Run, tmp_path: Path) -> None:
    """It is called as a threadlet, and its descriptor is not inherited."""

    def opener(path: str, flags: int) -> int:
        return os.open(os.path.join(tmp_path, path), flags, 0o600)

    async def main() -> None:
        async with threadlets.open("file", "w", opener=opener) as file:
            await file.write("x")
            assert not os.get_inheritable(file.fileno())

    run(main())
    assert b"x" == (tmp_path / "file").read_bytes()


def test_fsync_and_subprocesses_see_what_was_flushed(run: Run, tmp_path: Path) -> None:
    """The descriptor's position is the file's: a child goes on where the parent was."""

    async def main() -> None:
        async with threadlets.open(tmp_path / "file", "wb") as file:
            await file.write(b"first\n")
            await file.fsync()
            child = await asyncio.create_subprocess_exec("echo", "second", stdout=file.fileno())
            await child.wait()
            await file.write(b"third\n")
        assert b"first\nsecond\nthird\n" == (tmp_path / "file").read_bytes()

    run(main())


def test_other_tasks_run_while_lines_are_read(run: Run, tmp_path: Path) -> None:
    """Reading a long file that is in the cache does not occupy the loop."""
    (tmp_path / "file").write_bytes(b"line\n" * 200_000)

    async def main() -> None:
        async def count() -> None:
            nonlocal n_steps
            while True:
                n_steps += 1
                await asyncio.sleep(0)

        n_steps = 0
        counting = asyncio.create_task(count())
        async with threadlets.open(tmp_path / "file") as file:
            async for _ in file:
                pass
        counting.cancel()
        assert n_steps >= 10

    run(main())
