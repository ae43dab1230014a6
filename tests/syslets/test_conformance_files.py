"""Conformance: atoms that open, inspect and change files, in every way of running."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from threadlets import syslet
from threadlets.atoms import (
    AT_SYMLINK_NOFOLLOW,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    close,
    fallocate,
    fdatasync,
    fsync,
    ftruncate,
    openat,
    openat2,
    statx,
)

from .harness import Carry

FdOf = Callable[..., int]

_PUNCH_HOLE_KEEP_SIZE = 3


@syslet
def _open_read(path):
    fd = yield openat(path)
    return fd


@syslet
def _open_write(path):
    fd = yield openat(path, os.O_WRONLY)
    return fd


@syslet
def _open_non_blocking(path):
    fd = yield openat(path, os.O_RDONLY | os.O_NONBLOCK)
    return fd


@syslet
def _open_two_keep_first(first, second):
    kept = yield openat(first, os.O_RDONLY | os.O_NONBLOCK)
    yield openat(second)
    return kept


@syslet
def _create(path, mode):
    fd = yield openat(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    return fd


@syslet
def _truncate(path):
    fd = yield openat(path, os.O_WRONLY | os.O_TRUNC)
    yield close(fd)


@syslet
def _open_beneath(dir_fd, path):
    fd = yield openat2(path, resolve=RESOLVE_BENEATH, dir_fd=dir_fd)
    return fd


@syslet
def _open_in(dir_fd, path):
    fd = yield openat(path, dir_fd=dir_fd)
    return fd


@syslet
def _open_without_links(path):
    fd = yield openat2(path, resolve=RESOLVE_NO_SYMLINKS)
    return fd


@syslet
def _create_by_openat2(path, mode):
    fd = yield openat2(path, os.O_WRONLY | os.O_CREAT, mode)
    yield close(fd)


@syslet
def _status(path):
    return (yield statx(path))


@syslet
def _own_status(fd):
    return (yield statx(dir_fd=fd))


@syslet
def _link_status(path):
    return (yield statx(path, flags=AT_SYMLINK_NOFOLLOW))


@syslet
def _fields(path):
    info = yield statx(path)
    return info.mode, info.size, info.nlink, info.mtime_ns, info.ino, info.dev


@syslet
def _close(fd):
    yield close(fd)


@syslet
def _fsync(fd):
    yield fsync(fd)


@syslet
def _fdatasync(fd):
    yield fdatasync(fd)


@syslet
def _ftruncate(fd, length):
    yield ftruncate(fd, length)


@syslet
def _fallocate(fd, mode, offset, length):
    yield fallocate(fd, mode, offset, length)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


def test_openat_hands_its_descriptor_over(carry: Carry, file: Path) -> None:
    """The descriptor belongs to the caller, blocks, and does not survive exec."""
    fd = carry(_open_read, file).unwrap()
    try:
        assert b"content" == os.read(fd, 100)
        assert not os.get_inheritable(fd)
        assert os.get_blocking(fd)
    finally:
        os.close(fd)


def test_openat_keeps_the_flags_that_were_asked_for(carry: Carry, file: Path) -> None:
    """The descriptor is non-blocking if the program says so, however the open was tried."""
    fd = carry(_open_non_blocking, file).unwrap()
    try:
        assert os.O_NONBLOCK & fcntl.fcntl(fd, fcntl.F_GETFL)
    finally:
        os.close(fd)


def test_a_later_openat_does_not_change_an_earlier_ones_flags(carry: Carry, file: Path) -> None:
    """The descriptor that is handed over stays non-blocking, though another was opened after it."""
    fd = carry(_open_two_keep_first, file, file).unwrap()
    try:
        assert os.O_NONBLOCK & fcntl.fcntl(fd, fcntl.F_GETFL)
    finally:
        os.close(fd)


def test_openat_creates_with_its_mode(carry: Carry, tmp_path: Path) -> None:
    """The umask restricts the mode, as always."""
    fd = carry(_create, tmp_path / "new", 0o640).unwrap()
    os.close(fd)
    assert 0o640 == stat.S_IMODE((tmp_path / "new").stat().st_mode)


def test_openat_truncates(carry: Carry, file: Path) -> None:
    """O_TRUNC removes the content."""
    assert carry(_truncate, file).ok
    assert b"" == file.read_bytes()


def test_openat_begins_at_a_folders_descriptor(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """A relative path begins at the folder of `dir_fd`."""
    fd = carry(_open_in, fd_of(file.parent), "file").unwrap()
    assert os.path.samestat(os.fstat(fd), file.stat())
    os.close(fd)


def test_openat_takes_a_device(carry: Carry) -> None:
    """A device without a position can be opened, too."""
    fd = carry(_open_read, "/dev/null").unwrap()
    assert b"" == os.read(fd, 1)
    os.close(fd)


def test_openat2_stays_beneath_its_folder(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """A path that leaves the folder gives EXDEV; a path that does not is opened."""
    folder = fd_of(file.parent)
    os.close(carry(_open_beneath, folder, "file").unwrap())
    for path in ("..", "/etc/passwd"):
        assert errno.EXDEV == carry(_open_beneath, folder, path).errno


def test_openat2_creates_with_its_mode(carry: Carry, tmp_path: Path) -> None:
    """openat2 creates a file with its mode, as openat does."""
    assert carry(_create_by_openat2, tmp_path / "new", 0o600).ok
    assert 0o600 == stat.S_IMODE((tmp_path / "new").stat().st_mode)


def test_openat2_refuses_flags_that_openat_ignores(carry: Carry, file: Path) -> None:
    """Unknown flags give EINVAL, also those beyond 32 bits."""
    for flags in (1 << 40, 1 << 30):
        assert errno.EINVAL == carry(_opening_with(flags), file).errno


def _opening_with(flags: int):  # type: ignore[no-untyped-def]
    @syslet
    def opening(path):
        yield openat2(path, flags)

    return opening


_OPEN_ERRORS = {
    "missing": (_open_read, "missing", errno.ENOENT),
    "a file in place of a folder": (_open_read, "file/x", errno.ENOTDIR),
    "a name that is too long": (_open_read, "x" * 256, errno.ENAMETOOLONG),
    "a path that is too long": (_open_read, "x/" * 2100, errno.ENAMETOOLONG),
    "a loop of links": (_open_read, "loop", errno.ELOOP),
    "a link where none may be": (_open_without_links, "link", errno.ELOOP),
    "an empty path": (_open_read, "", errno.ENOENT),
    "a folder to be truncated": (_truncate, "", errno.EISDIR),
}


@pytest.mark.parametrize(("program", "name", "number"), _OPEN_ERRORS.values(), ids=_OPEN_ERRORS)
def test_what_cannot_be_opened_says_why(
    carry: Carry, file: Path, program: object, name: str, number: int
) -> None:
    """The result names the first atom and the error."""
    (file.parent / "loop").symlink_to("loop")
    (file.parent / "link").symlink_to("file")
    path = f"{file.parent}/{name}" if name or program is _truncate else ""
    result = carry(program, path)  # type: ignore[arg-type]
    assert (False, number, 0, None) == (result.ok, result.errno, result.atom, result.value)


def test_openat_exclusively_finds_the_file_there(carry: Carry, file: Path) -> None:
    """O_EXCL gives EEXIST if the file exists."""
    assert errno.EEXIST == carry(_create, file, 0o600).errno


def test_openat_of_a_folder_to_write_is_refused(carry: Carry, tmp_path: Path) -> None:
    """Opening a folder to write gives EISDIR, without O_TRUNC, too."""

    @syslet
    def opening(path):
        yield openat(path, os.O_WRONLY)

    assert errno.EISDIR == carry(opening, tmp_path).errno


def test_statx_is_what_os_stat_says(carry: Carry, file: Path) -> None:
    """All fields that both have are equal, for a file, a folder and a device."""
    for path in (file, file.parent, "/dev/null"):
        status, expected = carry(_status, path).unwrap(), os.stat(path)
        for name in [
            "st_mode",
            "st_ino",
            "st_dev",
            "st_nlink",
            "st_uid",
            "st_gid",
            "st_size",
            "st_atime_ns",
            "st_mtime_ns",
            "st_ctime_ns",
            "st_blksize",
            "st_blocks",
            "st_rdev",
        ]:
            assert getattr(expected, name) == getattr(status, name), name


def test_statx_without_a_path_is_the_descriptors(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """Without a path, statx describes the file of the descriptor."""
    assert 7 == carry(_own_status, fd_of(file)).unwrap().st_size


def test_statx_of_a_pipe_knows_that_it_is_one(carry: Carry, pipe: tuple[int, int]) -> None:
    """Descriptors without a name have a status, too."""
    assert stat.S_ISFIFO(carry(_own_status, pipe[0]).unwrap().st_mode)


def test_statx_follows_links_or_does_not(carry: Carry, file: Path) -> None:
    """statx follows a link unless AT_SYMLINK_NOFOLLOW is set."""
    link = file.parent / "link"
    link.symlink_to("file")
    assert stat.S_ISREG(carry(_status, link).unwrap().st_mode)
    assert stat.S_ISLNK(carry(_link_status, link).unwrap().st_mode)


def test_fields_of_statx_are_integers_of_the_program(carry: Carry, file: Path) -> None:
    """A program can return fields of a status like other integers."""
    expected = file.stat()
    assert (
        expected.st_mode,
        expected.st_size,
        expected.st_nlink,
        expected.st_mtime_ns,
        expected.st_ino,
        expected.st_dev,
    ) == carry(_fields, file).unwrap()


@pytest.mark.parametrize(
    ("name", "number"),
    [("missing", errno.ENOENT), ("file/x", errno.ENOTDIR), ("loop", errno.ELOOP)],
)
def test_statx_says_why_there_is_no_status(
    carry: Carry, file: Path, name: str, number: int
) -> None:
    """The errors are those of stat(2)."""
    (file.parent / "loop").symlink_to("loop")
    assert number == carry(_status, file.parent / name).errno


def test_statx_of_no_descriptor_is_an_error(carry: Carry) -> None:
    """A number that is no open descriptor gives EBADF."""
    assert errno.EBADF == carry(_own_status, 1_000_000).errno


def test_close_closes(carry: Carry, file: Path) -> None:
    """The descriptor is free afterwards; a number that is not open gives EBADF."""
    fd = os.open(file, os.O_RDONLY)
    assert carry(_close, fd).ok
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    assert errno.EBADF == carry(_close, 1_000_000).errno


@pytest.mark.parametrize("program", [_fsync, _fdatasync], ids=["fsync", "fdatasync"])
def test_files_can_be_synchronised(carry: Carry, file: Path, fd_of: FdOf, program: object) -> None:
    """fsync and fdatasync succeed; a number that is no open descriptor gives EBADF."""
    result = carry(program, fd_of(file, os.O_RDWR))  # type: ignore[arg-type]
    assert (True, None) == (result.ok, result.value)
    assert errno.EBADF == carry(program, 1_000_000).errno  # type: ignore[arg-type]


def test_pipes_cannot_be_synchronised(carry: Carry, pipe: tuple[int, int]) -> None:
    """fsync of a pipe gives EINVAL."""
    assert errno.EINVAL == carry(_fsync, pipe[1]).errno


def test_ftruncate_cuts_and_extends(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """The added part of an extended file reads as zeros."""
    fd = fd_of(file, os.O_RDWR)
    assert carry(_ftruncate, fd, 3).ok
    assert carry(_ftruncate, fd, 5).ok
    assert b"con\0\0" == file.read_bytes()


def test_ftruncate_says_why_it_cannot(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """A negative length and a read-only descriptor give EINVAL, a closed descriptor EBADF."""
    assert errno.EINVAL == carry(_ftruncate, fd_of(file, os.O_RDWR), -1).errno
    assert errno.EINVAL == carry(_ftruncate, fd_of(file), 1).errno
    assert errno.EBADF == carry(_ftruncate, 1_000_000, 1).errno


def test_fallocate_extends_and_punches(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """Reserved bytes read as zeros, as do those of a hole."""
    fd = fd_of(file, os.O_RDWR)
    assert carry(_fallocate, fd, 0, 0, 9000).ok
    assert 9000 == file.stat().st_size
    assert carry(_fallocate, fd, _PUNCH_HOLE_KEEP_SIZE, 0, 3).ok
    assert b"\0\0\0tent\0" == file.read_bytes()[:8]


def test_fallocate_says_why_it_cannot(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """A length of 0 gives EINVAL, and a read-only descriptor EBADF."""
    assert errno.EINVAL == carry(_fallocate, fd_of(file, os.O_RDWR), 0, 0, 0).errno
    assert errno.EBADF == carry(_fallocate, fd_of(file), 0, 0, 1).errno


def test_descriptors_that_are_not_handed_over_are_closed(carry: Carry, file: Path) -> None:
    """A run closes them whether it succeeds or fails; the fixture `nothing_leaks` checks."""

    @syslet
    def forgetful(path, missing):
        yield openat(path)
        yield openat(path, os.O_RDWR)
        yield openat(missing)

    result = carry(forgetful, file, file.parent / "missing")
    assert (errno.ENOENT, 2) == (result.errno, result.atom)
    assert carry(forgetful, file, file).ok


def test_a_tuple_hands_several_descriptors_over(carry: Carry, file: Path) -> None:
    """The descriptors in the returned tuple stay open, and no others."""

    @syslet
    def three(path):
        first = yield openat(path)
        yield openat(path)
        third = yield openat(path, os.O_RDWR)
        return first, third

    for fd in carry(three, file).unwrap():
        assert b"content" == os.read(fd, 100)
        os.close(fd)


def test_openat_of_a_socket_to_write_is_refused(carry: Carry, tmp_path: Path) -> None:
    """Opening a socket to write fails at once with ENXIO, like a named pipe without a reader."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    result = carry(_open_write, str(tmp_path / "socket"))
    assert errno.ENXIO == result.errno
