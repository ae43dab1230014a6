"""Special files: named pipes, devices, dangling links; and files that change meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets._files import copying

from .conftest import Run

MIB = 2**20


def _kinds(folder: Path) -> dict[str, int]:
    return {name: os.lstat(folder / name).st_mode for name in os.listdir(folder)}


@pytest.mark.parametrize("through_link", [False, True])
@pytest.mark.parametrize("kind", ["named pipe", "socket", "device"])
def test_an_atomic_write_leaves_what_is_no_file_as_it_is(
    run: Run, tmp_path: Path, kind: str, through_link: bool
) -> None:
    """The error says what it is and what to do, and names the path as it was given."""
    path = tmp_path / "it"
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        path = Path("/dev/null")
    if through_link:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    before = _kinds(tmp_path), os.stat(path).st_mode
    with pytest.raises(shutil.SpecialFileError, match=f"is a {kind}: leave `atomic` out") as raised:
        run(threadlets.write_file(path, b"x", atomic=True))
    assert (errno.EINVAL, str(path)) == (raised.value.errno, raised.value.filename)
    assert before == (_kinds(tmp_path), os.stat(path).st_mode)


def test_an_atomic_write_refuses_a_file_without_its_name(run: Run, tmp_path: Path) -> None:
    """A path in /proc may lead to a file without a name, which another file must not replace."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        way = f"/proc/self/fd/{file.fileno()}"
        run(threadlets.write_file(way, b"kept", atomic=True))
        assert b"kept" == path.read_bytes()
    with path.open("rb") as file:
        path.unlink()
        way = f"/proc/self/fd/{file.fileno()}"
        with pytest.raises(shutil.SpecialFileError, match="not where its name says"):
            run(threadlets.write_file(way, b"x", atomic=True))
        receiver, sender = os.pipe()
        with pytest.raises(shutil.SpecialFileError, match="named pipe"):
            run(threadlets.write_file(f"/proc/self/fd/{sender}", b"x", atomic=True))
        os.close(receiver)
        os.close(sender)
    assert [] == os.listdir(tmp_path)


_PATHS = ("new", "file", "link", "chain", "dangling", "dangling_far", "loop", "folder", "folder/")
_PATHS += (
    "file/",
    "new/",
    "",
    ".",
    "missing/../new",
    "missing/.",
    "file/new",
    "to_folder",
    "n" * 255,
)


@pytest.mark.parametrize("path", _PATHS)
def test_atomic_or_not_a_write_goes_to_the_same_file(run: Run, tmp_path: Path, path: str) -> None:
    """Links, names and their errors mean what they mean to the kernel; links stay links."""

    def outcome(atomic: bool) -> Any:
        folder = tmp_path / str(atomic)
        (folder / "folder").mkdir(parents=True)
        (folder / "file").write_bytes(b"old")
        for name, text in (
            ("link", "file"),
            ("chain", "link"),
            ("dangling", "folder/made"),
            ("dangling_far", "missing/made"),
            ("loop", "loop"),
            ("to_folder", "folder"),
        ):
            (folder / name).symlink_to(text)
        os.chdir(folder)
        try:
            try:
                result: Any = run(threadlets.write_file(path, b"new", atomic=atomic))
            except OSError as error:
                result = type(error), error.errno, error.filename
            found = {
                str(it): it.is_symlink() or it.is_dir() or it.read_bytes()
                for it in Path().rglob("*")
            }
        finally:
            os.chdir(before)
        return result, found

    before = os.getcwd()
    assert outcome(False) == outcome(True)


@pytest.mark.parametrize("size", [1000, MIB])
def test_copying_onto_what_is_no_file(run: Run, tmp_path: Path, size: int) -> None:
    """A named pipe and a socket are refused at once, a device is written to and keeps its mode."""
    source, fifo = tmp_path / "source", tmp_path / "fifo"
    source.write_bytes(b"x" * size)
    source.chmod(0o600)
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    mode_of_null = os.stat("/dev/null").st_mode

    async def main() -> None:
        for target in (fifo, tmp_path / "link"):
            with pytest.raises(shutil.SpecialFileError, match="is a named pipe"):
                await threadlets.copy_file(source, target)
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)) as raised:
            await threadlets.copy_file(source, tmp_path / "socket")
        assert str(tmp_path / "socket") == raised.value.filename
        with pytest.raises(IsADirectoryError):
            await threadlets.copy_file(source, tmp_path)
        with pytest.raises(shutil.SameFileError):
            await threadlets.copy_file(source, source)
        await threadlets.copy_file(source, "/dev/null")

    run(main())
    assert mode_of_null == os.stat("/dev/null").st_mode
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert b"x" * size == source.read_bytes()


@pytest.mark.parametrize("size", [1000, 256 * 1024, 256 * 1024 + 1, 3 * MIB])
def test_a_failed_copy_names_both_files(run: Run, tmp_path: Path, size: int) -> None:
    """It names them as `shutil.copyfile` does, whichever way the content was copied."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * size)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as raised:
        run(threadlets.copy_file(source, "/dev/full"))
    assert (str(source), "/dev/full") == (raised.value.filename, raised.value.filename2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as raised:
            run(threadlets.copy_file(source, target))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (str(source), str(target)) == (raised.value.filename, raised.value.filename2)


def _cut_to(size: int) -> Callable[[Path], None]:
    return lambda source: os.truncate(source, size)


def _append(source: Path) -> None:
    with source.open("ab") as file:
        file.write(b"y" * MIB)


@pytest.mark.parametrize("has_hole", [False, True])
@pytest.mark.parametrize(
    ("change", "size"),
    [
        (_cut_to(0), MIB),
        (_cut_to(MIB // 2), MIB),
        (_cut_to(MIB + 5), MIB + 5),
        (_cut_to(3 * MIB + 7), 3 * MIB + 7),
        (_append, 5 * MIB),
    ],
)
def test_a_copy_ends_where_its_source_does(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_hole: bool,
    change: Callable[[Path], None],
    size: int,
) -> None:
    """A file that is cut while it is copied is not padded; the bytes copied before stay."""
    source, target = tmp_path / "source", tmp_path / "target"
    content = os.urandom(5 * MIB)
    with source.open("wb") as file:
        if has_hole:
            content = content[: 2 * MIB] + bytes(2 * MIB) + content[4 * MIB :]
            file.write(content[: 2 * MIB])
            file.seek(4 * MIB)
            file.write(content[4 * MIB :])
        else:
            file.write(content)

    def step(*args: Any) -> Any:
        moved = original(*args)
        if args[2] == 0:
            change(source)
        return moved

    original = copying._copy_step
    monkeypatch.setattr(copying, "_STEP", MIB)
    monkeypatch.setattr(copying, "_copy_step", step)
    run(threadlets.copy_file(source, target))
    assert content[:size] == target.read_bytes()


def test_a_fifo_is_written_to_without_atomic(run: Run, tmp_path: Path) -> None:
    """Leaving `atomic` out is the remedy that the refusal names."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main() -> None:
        reading = asyncio.create_task(asyncio.to_thread(path.read_bytes))
        await threadlets.write_file(path, b"x" * 200_000)
        assert b"x" * 200_000 == await reading

    run(main())
