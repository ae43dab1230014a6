"""Closing: what was written is in the file, or an error says that it is not; the descriptor is closed once."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import threadlets

from .conftest import Run

_MODES = [("w", "text\n"), ("wb", b"bytes"), ("a", "text\n"), ("ab", b"bytes"), ("r+b", b"bytes")]
_PIPE_BYTES = 65_536


def _bytes(data: Any) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


async def _close(file: Any) -> None:
    await file.close()


async def _aclose(file: Any) -> None:
    await file.aclose()


async def _leave(file: Any) -> None:
    async with file:
        pass


_WAYS: list[Callable[[Any], Coroutine[Any, Any, None]]] = [_close, _aclose, _leave]


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize(("mode", "data"), _MODES)
@pytest.mark.parametrize("n_cancellations", [1, 3])
def test_a_cancelled_close_writes_and_closes(
    run: Run, tmp_path: Path, way: Any, mode: str, data: Any, n_cancellations: int
) -> None:
    """The close is complete, wherever it is cancelled, before `CancelledError` is raised."""

    async def main() -> None:
        for n_ticks in range(3):
            path = tmp_path / str(n_ticks)
            path.touch()
            file = await threadlets.open(path, mode)
            await file.write(data)
            task = asyncio.create_task(way(file))
            await asyncio.sleep(0)
            for _ in range(n_cancellations):
                for _ in range(n_ticks):
                    await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            assert file.closed
            assert _bytes(data) == path.read_bytes()
            await file.close()

    run(main())


def test_a_cancelled_block_waits_for_its_turn(run: Run, tmp_path: Path) -> None:
    """Leaving the block closes the file even if another task is writing to it."""
    path = tmp_path / "file"
    large = b"x" * 20_000_000

    async def main() -> None:
        async def leave() -> None:
            async with threadlets.open(path, "wb") as file:
                await file.write(b"first")
                writing.append(asyncio.create_task(file.write(large)))
                await asyncio.sleep(0)
                files.append(file)

        files: list[Any] = []
        writing: list[asyncio.Task[int]] = []
        leaving = asyncio.create_task(leave())
        while not files:
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert files[0].closed
        await asyncio.wait(writing)

    run(main())
    assert b"first" + large == path.read_bytes()


def test_two_closes_at_once_both_wait(run: Run, tmp_path: Path) -> None:
    """When any `close()` has returned, everything is in the file."""
    path = tmp_path / "file"

    async def main() -> None:
        file = await threadlets.open(path, "wb")
        await file.write(b"all")

        async def close_and_look() -> bytes:
            await file.close()
            return path.read_bytes()

        assert [b"all"] * 3 == await asyncio.gather(*(close_and_look() for _ in range(3)))

    run(main())


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_cancelled_close_of_a_full_pipe_keeps_the_rest(run: Run, mode: str, way: Any) -> None:
    """The pipe may never be read, so the cancellation comes at once; another close continues."""

    async def main() -> None:
        receiver, sender = os.pipe()
        os.write(sender, b"." * _PIPE_BYTES)
        file = await threadlets.open(sender, mode)
        await file.write("kept" if mode == "w" else b"kept")
        for _ in range(2):
            task = asyncio.create_task(way(file))
            for _ in range(3):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not file.closed
        assert b"." * _PIPE_BYTES == os.read(receiver, _PIPE_BYTES)
        await file.close()
        assert b"kept" == os.read(receiver, 100)
        assert b"" == os.read(receiver, 1)
        os.close(receiver)

    run(main())


def test_a_time_out_ends_a_block_around_a_full_pipe(run: Run) -> None:
    """Neither the block nor the garbage collector waits for a reader."""
    lost: list[Any] = []

    async def main() -> None:
        receiver, sender = os.pipe()
        os.write(sender, b"." * _PIPE_BYTES)

        async def write() -> bool:
            try:
                async with asyncio.timeout(0.01), threadlets.open(sender, "wb") as file:
                    await file.write(b"lost")
            except TimeoutError:
                return True
            return False

        async def write_and_forget() -> bool:
            was_late = await asyncio.create_task(write())
            gc.collect()
            return was_late

        with pytest.warns(ResourceWarning, match="unclosed file"):
            assert await write_and_forget()
        assert b"." * _PIPE_BYTES == os.read(receiver, 2 * _PIPE_BYTES)
        assert b"" == os.read(receiver, 1)
        os.close(receiver)

    hook, sys.unraisablehook = sys.unraisablehook, lambda it: lost.append(it.exc_value)
    try:
        run(main())
    finally:
        sys.unraisablehook = hook
    assert [errno.EAGAIN] == [it.errno for it in lost]


def test_what_a_forgotten_file_borrowed_stays_open_and_has_the_data(
    run: Run, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """As with the builtin, there is no warning, and nothing is lost."""
    path = tmp_path / "file"

    async def main() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        file = await threadlets.open(fd, "wb", closefd=False)
        await file.write(b"kept")
        del file
        gc.collect()
        assert b"kept" == path.read_bytes()
        os.close(fd)

    run(main())
    assert [] == [it for it in recwarn if it.category is ResourceWarning]


@pytest.mark.parametrize("n_cancellations", [0, 1])
def test_an_error_is_told_rather_than_a_cancellation(run: Run, n_cancellations: int) -> None:
    """The error tells that the data was not written, and the file is closed."""

    async def main() -> None:
        file = await threadlets.open("/dev/full", "wb")
        await file.write(b"x")
        task = asyncio.create_task(file.close())
        await asyncio.sleep(0)
        for _ in range(n_cancellations):
            task.cancel()
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            await task
        assert file.closed

    run(main())


def test_a_broken_pipe_is_closed_once(run: Run) -> None:
    """The error of the flush is raised, and nothing is written later."""

    async def main() -> None:
        receiver, sender = os.pipe()
        file = await threadlets.open(sender, "wb")
        await file.write(b"x")
        os.close(receiver)
        with pytest.raises(BrokenPipeError):
            await file.close()
        assert file.closed
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(sender)

    run(main())


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_close_outlives_its_loop(engine: str, tmp_path: Path, mode: str) -> None:
    """Closing a loop while it closes a file writes all of the file's data."""
    path = tmp_path / "file"
    data = "x" * 3_000_000 if mode == "w" else b"x" * 3_000_000

    async def main() -> None:
        file = await threadlets.open(path, mode, 4_000_000)
        await file.write(data)
        fds.append(file.fileno())
        tasks.append(asyncio.create_task(file.close()))
        await asyncio.sleep(0)

    fds: list[int] = []
    tasks: list[asyncio.Task[None]] = []
    loop = threadlets.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(main())
    with warnings.catch_warnings():
        # The loop warns of tasks that are left.
        warnings.simplefilter("ignore", ResourceWarning)
        loop.close()
    assert _bytes(data) == path.read_bytes()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fds[0])
    tasks.clear()
    gc.collect()


def test_a_generator_that_is_left_closes_its_file(run: Run, tmp_path: Path) -> None:
    """Where code may not wait, closing is done at once."""
    path = tmp_path / "file"

    async def write() -> AsyncIterator[None]:
        async with threadlets.open(path, "wb") as file:
            await file.write(b"kept")
            yield

    async def main() -> None:
        generator: Any = write()
        await anext(generator)
        step = generator.aclose()
        with pytest.raises(StopIteration):
            step.send(None)
        assert b"kept" == path.read_bytes()

    run(main())
