"""`read_file`, `write_file` and `copy_file`: whole files, or nothing and an error that says why."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets._files import whole

from .conftest import Run

_SPARSE_BYTES = 5 * 2**30


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A file larger than 4 GiB, nearly all of it holes."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b"head")
        file.seek(_SPARSE_BYTES - 4)
        file.write(b"tail")
    return path


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65_536, 3_000_000])
def test_files_are_read_and_written_as_a_whole(run: Run, tmp_path: Path, size: int) -> None:
    """Content of any size is read as it was written, and `write_file` returns its size."""
    data = os.urandom(size)
    path = tmp_path / "file"

    async def main() -> None:
        assert size == await threadlets.write_file(path, data)
        assert data == await threadlets.read_file(path)
        assert data == await threadlets.read_file(path, limit=size)

    run(main())
    assert data == path.read_bytes()


def test_a_file_beyond_the_limit_is_refused(run: Run, tmp_path: Path) -> None:
    """Files that do not report their size are refused, too."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)

    async def main() -> None:
        for name, limit in ((path, 4999), (path, 0), ("/proc/self/maps", 10)):
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as raised:
                await threadlets.read_file(name, limit=limit)
            assert (errno.EFBIG, os.fspath(name)) == (raised.value.errno, raised.value.filename)

    run(main())


def test_files_that_tell_no_size_are_read_to_their_end(run: Run) -> None:
    """Files of /proc report that they are empty, and those of /sys that they are a page."""

    async def main() -> None:
        assert Path("/proc/version").read_bytes() == await threadlets.read_file("/proc/version")
        maps = await threadlets.read_file("/proc/self/maps", encoding="utf-8")
        assert len(maps) > 4096
        assert maps.endswith("\n")
        with open("/sys/kernel/mm/transparent_hugepage/enabled", "rb") as file:
            assert file.read() == await threadlets.read_file(file.name)

    run(main())


def test_a_fifo_is_read_to_its_end_while_others_run(run: Run, tmp_path: Path) -> None:
    """Neither opening nor reading it keeps the loop waiting."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main() -> None:
        reading = asyncio.create_task(threadlets.read_file(path))
        await asyncio.sleep(0)
        async with threadlets.open(path, "wb") as file:
            for _ in range(10):
                await file.write(b"x" * 50_000)
                await file.flush()
        assert b"x" * 500_000 == await reading

    run(main())


def test_text_has_its_encoding_and_its_newlines(run: Run, tmp_path: Path) -> None:
    """Reading translates newlines, as a text file does; writing does not."""
    path = tmp_path / "file"

    async def main() -> None:
        await threadlets.write_file(path, "é\r\n", encoding="latin-1")
        assert b"\xe9\r\n" == path.read_bytes()
        assert "é\n" == await threadlets.read_file(path, encoding="latin-1")
        with pytest.raises(UnicodeDecodeError):
            await threadlets.read_file(path, encoding="utf-8")
        for data, encoding in (("x", None), (b"x", "utf-8"), (7, None)):
            with pytest.raises(TypeError):
                await threadlets.write_file(path, data, encoding=encoding)  # type: ignore[arg-type]

    run(main())


def test_failures_name_the_file(run: Run, tmp_path: Path) -> None:
    """The exceptions are those of `os`, with the path as it was given."""
    (tmp_path / "file").touch()

    async def main() -> None:
        for path, expected in (
            (tmp_path / "missing" / "x", FileNotFoundError),
            (tmp_path / "file" / "x", NotADirectoryError),
            (tmp_path, IsADirectoryError),
            (os.fsencode(tmp_path), IsADirectoryError),
            (tmp_path / ("n" * 300), OSError),
            ("/proc/version/x", NotADirectoryError),
        ):
            for call in (
                threadlets.read_file(path),
                threadlets.write_file(path, b"x"),
                threadlets.write_file(path, b"x", atomic=True),
            ):
                with pytest.raises(expected) as raised:
                    await call
                assert os.fspath(path) == raised.value.filename
        for call in (threadlets.read_file("a\0b"), threadlets.write_file("a\0b", b"")):
            with pytest.raises(ValueError, match="null"):
                await call
        with pytest.raises(TypeError):
            await threadlets.read_file(3.5)  # type: ignore[call-overload]

    run(main())
    assert ["file"] == os.listdir(tmp_path)


def test_a_full_disk_is_an_error(run: Run) -> None:
    """A write that does not fit raises an error."""

    async def main() -> None:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            await threadlets.write_file("/dev/full", b"x")
        file = await threadlets.open("/dev/full", "wb")
        await file.write(b"x")
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            await file.close()
        assert file.closed

    run(main())


def test_names_may_be_any_bytes(run: Run, tmp_path: Path) -> None:
    """Names may be bytes, or the strings that Python makes of them."""
    name = bytes(set(range(1, 256)) - {ord("/")})[:200]
    path = os.fsencode(tmp_path) + b"/" + name

    async def main() -> None:
        await threadlets.write_file(path, b"1")
        await threadlets.write_file(os.fsdecode(path), b"2", atomic=True)
        assert b"2" == await threadlets.read_file(path)
        assert [(os.fsencode(tmp_path), [], [name])] == [
            found async for found in threadlets.walk(os.fsencode(tmp_path))
        ]

    run(main())


@pytest.mark.parametrize("sync", [False, True])
def test_an_atomic_write_replaces_with_the_same_permissions(
    run: Run, tmp_path: Path, sync: bool
) -> None:
    """A reader of the old file keeps it; the umask restricts the permissions of a new file."""
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o642)
    link.symlink_to("file")
    umask = os.umask(0o027)
    try:
        with path.open("rb") as old:
            run(threadlets.write_file(link, b"new", atomic=True, sync=sync))
            assert b"old" == old.read()
        run(threadlets.write_file(tmp_path / "made", b"", atomic=True, sync=sync))
    finally:
        os.umask(umask)
    assert b"new" == path.read_bytes()
    assert link.is_symlink()
    assert 0o642 == stat.S_IMODE(path.stat().st_mode)
    assert 0o640 == stat.S_IMODE((tmp_path / "made").stat().st_mode)
    assert ["file", "link", "made"] == sorted(os.listdir(tmp_path))


@pytest.mark.parametrize("n_sleeps", range(12))
def test_a_cancelled_atomic_write_leaves_nothing(run: Run, tmp_path: Path, n_sleeps: int) -> None:
    """Whenever it is cancelled, the folder has only the file, with the old or the new content."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    data = b"new" * 3_000_000

    async def main() -> None:
        writing = asyncio.create_task(
            threadlets.write_file(path, data, atomic=True, sync=bool(n_sleeps % 2))
        )
        for _ in range(n_sleeps):
            await asyncio.sleep(0.0005)
        writing.cancel()
        await asyncio.wait([writing])

    run(main())
    assert path.read_bytes() in (b"old", data)
    assert ["file"] == os.listdir(tmp_path)


def test_a_failed_atomic_write_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that cannot be replaced stays, and the temporary file is removed."""

    async def fails(*_args: Any) -> Any:
        (tmp_path / "file").unlink()
        (tmp_path / "file").mkdir()
        (tmp_path / "file" / "x").touch()
        return await original(*_args)

    original = whole._fill
    monkeypatch.setattr(whole, "_fill", fails)
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(IsADirectoryError) as raised:
        run(threadlets.write_file(path, b"new", atomic=True))
    assert str(path) == str(raised.value.filename)
    assert ["file"] == os.listdir(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 1000, 256 * 1024, 256 * 1024 + 1, 40_000_000])
def test_copies_have_the_content_and_the_permissions(run: Run, tmp_path: Path, size: int) -> None:
    """The target may exist or not, and be longer or shorter."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    source.chmod(0o4751)
    for before in (None, b"", b"x" * 300_000):
        target.unlink(missing_ok=True)
        if before is not None:
            target.write_bytes(before)
        run(threadlets.copy_file(source, target))
        assert source.read_bytes() == target.read_bytes()
        assert 0o4751 == stat.S_IMODE(target.stat().st_mode)


def test_copies_to_other_file_systems_and_of_what_has_no_size(run: Run, tmp_path: Path) -> None:
    """Where the kernel cannot copy by itself, the content is read and written."""
    large = tmp_path / "large"
    large.write_bytes(os.urandom(1_000_000))
    other = Path("/dev/shm") / f"threadlets-{os.getpid()}"
    try:
        run(threadlets.copy_file(large, other))
        assert large.read_bytes() == other.read_bytes()
        run(threadlets.copy_file("/proc/version", other))
        assert Path("/proc/version").read_bytes() == other.read_bytes()
    finally:
        other.unlink()


def test_copies_keep_holes(run: Run, tmp_path: Path, sparse: Path) -> None:
    """More than 4 GiB of holes take no space on the disk."""
    target = tmp_path / "target"
    run(threadlets.copy_file(sparse, target))
    status = target.stat()
    assert _SPARSE_BYTES == status.st_size
    assert status.st_blocks * 512 < 2**20
    with target.open("rb") as file:
        assert b"head" == file.read(4)
        file.seek(-4, os.SEEK_END)
        assert b"tail" == file.read()


def test_what_cannot_be_copied_is_refused(run: Run, tmp_path: Path) -> None:
    """The source stays as it is, and no target is made."""
    source, link, target = tmp_path / "source", tmp_path / "link", tmp_path / "target"
    source.write_bytes(b"content")
    link.symlink_to("source")
    os.mkfifo(tmp_path / "fifo")

    async def main() -> None:
        for wrong, right, expected, named in (
            (source, link, shutil.SameFileError, None),
            (source, source, shutil.SameFileError, None),
            (tmp_path / "missing", target, FileNotFoundError, tmp_path / "missing"),
            (tmp_path, target, IsADirectoryError, tmp_path),
            (source, tmp_path, IsADirectoryError, tmp_path),
            (source, tmp_path / "no" / "x", FileNotFoundError, tmp_path / "no" / "x"),
            (tmp_path / "fifo", target, shutil.SpecialFileError, None),
        ):
            with pytest.raises(expected) as raised:
                await threadlets.copy_file(wrong, right)
            assert (named and str(named)) == raised.value.filename
        await threadlets.copy_file(link, tmp_path / "link2", follow_symlinks=False)
        with pytest.raises(FileExistsError):
            await threadlets.copy_file(link, tmp_path / "link2", follow_symlinks=False)

    run(main())
    assert b"content" == source.read_bytes()
    assert "source" == os.readlink(tmp_path / "link2")
    assert ["fifo", "link", "link2", "source"] == sorted(os.listdir(tmp_path))


def test_the_tail_of_a_huge_file(run: Run, sparse: Path) -> None:
    """Positions beyond 4 GiB work like others."""

    async def main() -> None:
        async with threadlets.open(sparse, "rb") as file:
            assert _SPARSE_BYTES - 4 == await file.seek(-4, os.SEEK_END)
            assert b"tail" == await file.read()
            await file.seek(2**32 + 5)
            assert bytes(10) == await file.read(10)
            assert 2**32 + 15 == await file.tell()
            memory = bytearray(8)
            await file.seek(_SPARSE_BYTES - 8)
            assert 8 == await file.readinto(memory)
            assert b"\0\0\0\0tail" == bytes(memory)

    run(main())


def test_many_at_once(run: Run, tmp_path: Path) -> None:
    """Calls of many tasks do not disturb each other."""

    async def one(number: int) -> None:
        path = tmp_path / str(number % 7)
        data = str(number % 7).encode() * 10_000
        await threadlets.write_file(path, data, atomic=True)
        assert data == await threadlets.read_file(path)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(number))

    run(main())
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {str(number): b"%d" % number * 10_000 for number in range(7)} == contents
