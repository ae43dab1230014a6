"""A disk that is full: the error is raised, a beginning is written, and nothing is written twice."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import inspect
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import threadlets
from waiting import wait_until

from .conftest import Run

_DATA = b"".join(number.to_bytes(4, "big") for number in range(15_000))
_MORE = bytes(range(256)) * 20
_ROOM = 20_480
_NO_ROOM = "No space left on device|File too large"


class Disk:
    """A folder whose files can be limited in size, as if the disk were full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def full(self, size: int = 0) -> Iterator[Callable[[], None]]:
        """Leave `_ROOM` bytes for a file of this size; make room again in the end, or when called."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def make_room() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        resource.setrlimit(resource.RLIMIT_FSIZE, (size + _ROOM, hard))
        try:
            yield make_room
        finally:
            make_room()


class SmallDisk(Disk):
    """A file system of its own, which another file fills."""

    @contextlib.contextmanager
    def full(self, size: int = 0) -> Iterator[Callable[[], None]]:
        """Fill the file system but for `_ROOM` bytes; make room again in the end, or when called."""
        filler = self.folder / "filler"
        numbers = os.statvfs(self.folder)
        filler.write_bytes(bytes(numbers.f_bavail * numbers.f_frsize - _ROOM))

        def make_room() -> None:
            filler.unlink(missing_ok=True)

        try:
            yield make_room
        finally:
            make_room()


@pytest.fixture(params=["limit", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Return a disk that can be filled: by a limit, or a mounted one where mounting is allowed."""
    if request.param == "limit":
        yield Disk(tmp_path)
        return
    libc, path = ctypes.CDLL(None), os.fsencode(tmp_path)
    if libc.mount(b"tmpfs", path, b"tmpfs", ctypes.c_ulong(0), b"size=2m"):
        pytest.skip("file systems may not be mounted here")
    try:
        yield SmallDisk(tmp_path)
    finally:
        # The kernel may close an engine's files a moment after their operations have ended.
        wait_until(lambda: libc.umount(path) == 0)


def _outcome(value: Any, error: BaseException | None) -> Any:
    return (type(error), getattr(error, "errno", None)) if error else value


Step = tuple[Any, ...]
"""A method's name and arguments; or `room`, or `until it fails` and a step."""


async def _play(file: Any, steps: list[Step], path: Path, make_room: Callable[[], None]) -> Any:
    """Do one step after another; return the outcome of each, and the file's content after it."""
    outcomes = []

    async def call(name: str, *args: Any) -> Any:
        try:
            value = getattr(file, name)(*args)
            return _outcome(await value if inspect.isawaitable(value) else value, None)
        except (OSError, ValueError) as error:
            return _outcome(None, error)

    for step in steps:
        if step == ("room",):
            make_room()
        elif step[0] == "until it fails":
            n_calls = 0
            while not isinstance(await call(*step[1:]), tuple):
                n_calls += 1
                assert n_calls < 1000
            outcomes.append(n_calls)
        else:
            outcomes.append(await call(*step))
        outcomes.append(path.read_bytes())
    return outcomes


_PLAYS: dict[str, list[Step]] = {
    "flush": [("write", _DATA), ("flush",), ("flush",), ("room",), ("flush",), ("close",)],
    "write on": [("write", _DATA), ("room",), ("write", _MORE), ("flush",), ("close",)],
    "write on before there is room": [
        ("write", _DATA), ("flush",), ("write", b"some"), ("room",), ("close",),
    ],
    "close": [("write", _DATA), ("flush",), ("room",), ("close",)],
    "close while it is full": [("write", _DATA), ("close",), ("room",), ("close",)],
    "close while it is still full": [("write", _DATA), ("flush",), ("close",)],
    "little by little": [("until it fails", "write", _MORE), ("room",), ("close",)],
    "some, then much": [("write", b"some"), ("write", _DATA), ("tell",), ("room",), ("close",)],
    "lines": [("writelines", [_MORE] * 10), ("flush",), ("room",), ("close",)],
    "move away": [("write", _DATA), ("seek", 1), ("room",), ("seek", 1), ("tell",), ("close",)],
    "after a read": [
        ("read", 3), ("write", _DATA), ("flush",), ("room",), ("seek", 2), ("read", 9), ("close",),
    ],
    "cut": [("write", _DATA), ("truncate",), ("room",), ("truncate",), ("close",)],
    "sizes about a buffer's": [
        ("write", _DATA[:20_000]), ("write", _DATA[:8191]), ("write", _DATA[:8193]), ("room",),
        ("flush",), ("close",),
    ],
}  # fmt: skip


@pytest.mark.parametrize("play", _PLAYS)
@pytest.mark.parametrize("mode", ["wb", "ab", "r+b", "a+b"])
@pytest.mark.parametrize("buffering", [0, 512, 8192, 65536])
def test_a_file_leaves_on_a_full_disk_what_the_builtin_leaves(
    run: Run, disk: Disk, play: str, mode: str, buffering: int
) -> None:
    before = b"before" if "w" not in mode else b""
    steps = _PLAYS[play]

    async def outcomes(name: str, opened: Callable[[Path], Any]) -> Any:
        path = disk.folder / name
        path.write_bytes(before)
        file = opened(path)
        if inspect.isawaitable(file):
            file = await file
        with disk.full() as make_room:
            outcomes = await _play(file, steps, path, make_room)
        path.unlink()
        return outcomes

    async def main() -> None:
        expected = await outcomes("builtin", lambda path: open(path, mode, buffering))  # noqa: SIM115
        assert expected == await outcomes(
            "ours", lambda path: threadlets.open(path, mode, buffering=buffering)
        )

    run(main())


def test_a_write_as_large_as_the_buffer_is_kept_there(run: Run, disk: Disk) -> None:
    path = disk.folder / "file"

    async def main() -> None:
        with disk.full() as make_room:
            async with threadlets.open(path, "wb", buffering=8192) as file:
                await file.write(_DATA[:_ROOM])
                assert 8192 == await file.write(_DATA[_ROOM : _ROOM + 8192])
                assert _ROOM + 8192 == await file.tell()
                with pytest.raises(OSError, match=_NO_ROOM):
                    await file.flush()
                make_room()
        assert _DATA[: _ROOM + 8192] == path.read_bytes()

    run(main())


@pytest.mark.parametrize("mode", ["w", "a", "r+", "w+"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_text_file_leaves_what_the_builtin_leaves(
    run: Run, disk: Disk, mode: str, encoding: str
) -> None:
    text = _DATA.decode("latin-1").replace("\r", "\n")

    async def outcomes(name: str, opened: Callable[[Path], Any]) -> Any:
        path = disk.folder / name
        path.touch()
        file = opened(path)
        if inspect.isawaitable(file):
            file = await file
        steps = [("write", text), ("room",), ("write", "more"), ("flush",), ("close",)]
        with disk.full() as make_room:
            outcomes = await _play(file, steps, path, make_room)
        path.unlink()
        return outcomes

    async def main() -> None:
        expected = await outcomes(
            "builtin",
            lambda path: open(path, mode, 8192, encoding, newline=""),  # noqa: SIM115
        )
        assert expected == await outcomes(
            "ours",
            lambda path: threadlets.open(path, mode, buffering=8192, encoding=encoding, newline=""),
        )
        assert expected[0][1] in (errno.ENOSPC, errno.EFBIG)

    run(main())


def test_a_context_writes_only_the_rest_of_a_failed_flush(run: Run, disk: Disk) -> None:
    path = disk.folder / "file"

    async def main() -> None:
        with disk.full() as make_room:
            async with threadlets.open(path, "wb", buffering=65536) as file:
                await file.write(_DATA)
                with pytest.raises(OSError, match=_NO_ROOM):
                    await file.flush()
                assert _DATA[:_ROOM] == path.read_bytes()
                make_room()
        assert _DATA == path.read_bytes()

    run(main())


def test_a_file_that_is_forgotten_writes_only_the_rest_of_a_failed_flush(
    run: Run, disk: Disk
) -> None:
    path = disk.folder / "file"

    async def main() -> None:
        with disk.full() as make_room:
            file = await threadlets.open(path, "wb", buffering=65536)
            await file.write(_DATA)
            with pytest.raises(OSError, match=_NO_ROOM):
                await file.flush()
            make_room()
            files = [file]
            del file
            with pytest.warns(ResourceWarning):
                _forget(files)
        assert _DATA == path.read_bytes()

    run(main())


def _forget(files: list[Any]) -> None:
    files.clear()
    # The error's traceback refers to the file, too.
    gc.collect()


_WHOLE: dict[str, Callable[[Path, Path], Any]] = {
    "write_file": lambda _, path: threadlets.write_file(path, _DATA),
    "write_file, sync": lambda _, path: threadlets.write_file(path, _DATA, sync=True),
    "text": lambda _, path: threadlets.write_file(
        path, _DATA.decode("latin-1"), encoding="latin-1"
    ),
    "Path.write_bytes": lambda _, path: threadlets.Path(path).write_bytes(_DATA),
    "Path.write_text": lambda _, path: threadlets.Path(path).write_text(
        _DATA.decode("latin-1"), encoding="latin-1", newline=""
    ),
    "copy_file": lambda source, path: threadlets.copy_file(source, path),
}


@pytest.mark.parametrize("how", _WHOLE)
def test_a_whole_file_is_written_as_far_as_there_is_room(run: Run, disk: Disk, how: str) -> None:
    source, path = disk.folder / "source", disk.folder / "file"
    source.write_bytes(_DATA)

    async def main() -> None:
        with disk.full(), pytest.raises(OSError, match=_NO_ROOM) as caught:
            await _WHOLE[how](source, path)
        names = (caught.value.filename, caught.value.filename2)
        assert str(path) in map(os.fspath, filter(None, names))
        assert _DATA[:_ROOM] == path.read_bytes()

    run(main())


def test_a_large_file_is_copied_as_far_as_there_is_room(run: Run, disk: Disk) -> None:
    source, path = disk.folder / "source", disk.folder / "file"
    data = _DATA * 10
    source.write_bytes(data)

    async def main() -> None:
        with disk.full(), pytest.raises(OSError, match=_NO_ROOM):
            await threadlets.copy_file(source, path)
        content = path.read_bytes()
        assert data[: len(content)] == content
        assert 0 < len(content) <= _ROOM

    run(main())


@pytest.mark.parametrize("sync", [False, True])
def test_what_is_to_be_replaced_at_once_stays_when_there_is_no_room(
    run: Run, disk: Disk, sync: bool
) -> None:
    path = disk.folder / "file"
    path.write_bytes(b"before")

    async def main() -> None:
        with disk.full(), pytest.raises(OSError, match=_NO_ROOM):
            await threadlets.write_file(path, _DATA, atomic=True, sync=sync)
        assert b"before" == path.read_bytes()
        assert ["file"] == os.listdir(disk.folder)

    run(main())


@pytest.mark.parametrize("way", ["pipe", "socket"])
@pytest.mark.parametrize("n_cancelled", [1, 3])
def test_a_flush_that_is_cancelled_goes_on_behind_what_the_other_end_has(
    run: Run, way: str, n_cancelled: int
) -> None:
    data = _DATA * 20

    async def main() -> None:
        ends = os.pipe() if way == "pipe" else [it.detach() for it in socket.socketpair()]
        from_fd, to_fd = ends
        received = bytearray()
        file = await threadlets.open(to_fd, "wb", buffering=2 * len(data))
        await file.write(data)
        for _ in range(n_cancelled):
            flush = asyncio.create_task(file.flush())
            n_before = len(received)
            # The flush continues when bytes were read, and blocks again.
            while len(received) < n_before + 100_000:
                await asyncio.sleep(0)
                if flush.done():
                    break
                received += await asyncio.to_thread(os.read, from_fd, 65536)
            flush.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flush
        close = asyncio.create_task(file.close())
        while part := await asyncio.to_thread(os.read, from_fd, 65536):
            received += part
        await close
        os.close(from_fd)
        assert data == received

    run(main())


def test_a_pipe_whose_reader_has_left_has_had_what_a_write_tells(run: Run) -> None:
    async def main() -> None:
        from_fd, to_fd = os.pipe()
        async with threadlets.open(to_fd, "wb", buffering=0) as file:
            write = asyncio.create_task(file.write(bytes(1_000_000)))
            n_read = 0
            while n_read < 200_000:
                n_read += len(await asyncio.to_thread(os.read, from_fd, 65536))
            os.close(from_fd)
            # An unbuffered file does the same: first it tells how much, then the error.
            assert n_read <= await write < 1_000_000
            with pytest.raises(BrokenPipeError):
                await file.write(b"more")

    run(main())
