"""Conformance: atoms that make, move and remove names, and read folders, in every way of running."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from threadlets import syslet
from threadlets.atoms import (
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    buffer,
    getdents,
    linkat,
    mkdirat,
    openat,
    renameat,
    symlinkat,
    unlinkat,
)

from .harness import Carry

FdOf = Callable[..., int]


@syslet
def _unlink(path):
    yield unlinkat(path)


@syslet
def _remove_folder(path):
    yield unlinkat(path, flags=AT_REMOVEDIR)


@syslet
def _rename(src, dst, flags=0):
    yield renameat(src, dst, flags=flags)


@syslet
def _make_folder(path, mode=0o777):
    yield mkdirat(path, mode)


@syslet
def _link(src, dst, flags=0):
    yield linkat(src, dst, flags=flags)


@syslet
def _symlink(src, dst):
    yield symlinkat(src, dst)


@syslet
def _all_in(folder):
    """Do everything with names relative to a folder's descriptor."""
    yield mkdirat("sub", dir_fd=folder)
    yield openat("sub/a", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
    yield linkat("sub/a", "sub/b", src_dir_fd=folder, dst_dir_fd=folder)
    yield symlinkat("b", "sub/link", dir_fd=folder)
    yield renameat("sub/a", "c", src_dir_fd=folder, dst_dir_fd=folder)
    yield unlinkat("sub/link", dir_fd=folder)
    yield unlinkat("sub/b", dir_fd=folder)
    yield unlinkat("sub", dir_fd=folder, flags=AT_REMOVEDIR)


@syslet
def _list(path):
    fd = yield openat(path, os.O_RDONLY | os.O_DIRECTORY)
    entries = buffer(4096)
    n = yield getdents(fd, entries)
    rest = yield getdents(fd, buffer(4096))
    return entries[:n], rest


@syslet
def _list_into_little(path):
    fd = yield openat(path)
    yield getdents(fd, buffer(8))


@syslet
def _list_descriptor(fd):
    yield getdents(fd, buffer(100))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "inside").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    (tmp_path / "link").symlink_to("a")
    return tmp_path


def test_unlinkat_removes_a_name(carry: Carry, folder: Path) -> None:
    """unlinkat removes the name of a file, and with AT_REMOVEDIR that of a folder."""
    assert carry(_unlink, folder / "a").ok
    assert carry(_remove_folder, folder / "empty").ok
    assert ["b", "full", "link"] == sorted(os.listdir(folder))


def test_renameat_replaces(carry: Carry, folder: Path) -> None:
    """The file that had the new name is gone."""
    assert carry(_rename, folder / "a", folder / "b").ok
    assert b"a" == (folder / "b").read_bytes()
    assert not (folder / "a").exists()


def test_renameat_exchanges(carry: Carry, folder: Path) -> None:
    """RENAME_EXCHANGE swaps the files of two names."""
    assert carry(_rename, folder / "a", folder / "b", RENAME_EXCHANGE).ok
    assert (b"b", b"a") == ((folder / "a").read_bytes(), (folder / "b").read_bytes())


def test_mkdirat_makes_a_folder_with_its_mode(carry: Carry, folder: Path) -> None:
    """The umask restricts the mode."""
    assert carry(_make_folder, folder / "new", 0o700).ok
    assert stat.S_IFDIR | 0o700 == (folder / "new").stat().st_mode


def test_linkat_gives_another_name(carry: Carry, folder: Path) -> None:
    """The new name is that of a link itself, or with AT_SYMLINK_FOLLOW of its target."""
    assert carry(_link, folder / "a", folder / "c").ok
    assert 2 == (folder / "a").stat().st_nlink
    assert carry(_link, folder / "link", folder / "second").ok
    assert (folder / "second").is_symlink()
    assert carry(_link, folder / "link", folder / "followed", AT_SYMLINK_FOLLOW).ok
    assert not (folder / "followed").is_symlink()


def test_symlinkat_keeps_what_it_was_told(carry: Carry, folder: Path) -> None:
    """The target is kept as it was given, whether it exists or not."""
    assert carry(_symlink, "no/where", folder / "new").ok
    assert "no/where" == os.readlink(folder / "new")


def test_names_begin_at_a_folders_descriptor(carry: Carry, tmp_path: Path, fd_of: FdOf) -> None:
    """Every atom that takes a name has a `dir_fd`."""
    assert carry(_all_in, fd_of(tmp_path)).ok
    assert ["c"] == os.listdir(tmp_path)


_ERRORS: dict[str, tuple[Any, list[Any], int]] = {
    "unlinkat of nothing": (_unlink, ["missing"], errno.ENOENT),
    "unlinkat of a folder": (_unlink, ["empty"], errno.EISDIR),
    "AT_REMOVEDIR of a file": (_remove_folder, ["a"], errno.ENOTDIR),
    "AT_REMOVEDIR of a full folder": (_remove_folder, ["full"], errno.ENOTEMPTY),
    "unlinkat beneath a file": (_unlink, ["a/x"], errno.ENOTDIR),
    "renameat of nothing": (_rename, ["missing", "c"], errno.ENOENT),
    "renameat into nowhere": (_rename, ["a", "missing/c"], errno.ENOENT),
    "renameat not to replace": (_rename, ["a", "b", RENAME_NOREPLACE], errno.EEXIST),
    "renameat to exchange with nothing": (_rename, ["a", "c", RENAME_EXCHANGE], errno.ENOENT),
    "renameat over a full folder": (_rename, ["empty", "full"], errno.ENOTEMPTY),
    "renameat of a folder over a file": (_rename, ["empty", "a"], errno.ENOTDIR),
    "renameat of a file over a folder": (_rename, ["a", "empty"], errno.EISDIR),
    "renameat into itself": (_rename, ["full", "full/x"], errno.EINVAL),
    "renameat with unknown flags": (_rename, ["a", "c", 1 << 20], errno.EINVAL),
    "mkdirat where there is one": (_make_folder, ["empty"], errno.EEXIST),
    "mkdirat in nowhere": (_make_folder, ["missing/new"], errno.ENOENT),
    "mkdirat beneath a file": (_make_folder, ["a/new"], errno.ENOTDIR),
    "linkat of nothing": (_link, ["missing", "c"], errno.ENOENT),
    "linkat where there is one": (_link, ["a", "b"], errno.EEXIST),
    "linkat of a folder": (_link, ["empty", "c"], errno.EPERM),
    "linkat with unknown flags": (_link, ["a", "c", 1 << 20], errno.EINVAL),
    "symlinkat where there is one": (_symlink, ["a", "b"], errno.EEXIST),
    "symlinkat in nowhere": (_symlink, ["a", "missing/new"], errno.ENOENT),
    "a name that is too long": (_make_folder, ["x" * 256], errno.ENAMETOOLONG),
}


@pytest.mark.parametrize(("program", "args", "number"), _ERRORS.values(), ids=_ERRORS)
def test_what_cannot_be_done_with_names_says_why(
    carry: Carry, folder: Path, program: Any, args: list[Any], number: int
) -> None:
    """The error is the kernel's, and the folder stays as it was."""
    before = sorted(os.listdir(folder))
    given = [folder / it if isinstance(it, str) else it for it in args]
    result = carry(program, *given)
    assert (False, number, 0) == (result.ok, result.errno, result.atom)
    assert before == sorted(os.listdir(folder))


def test_names_in_different_file_systems_are_not_linked(carry: Carry, folder: Path) -> None:
    """linkat and renameat between file systems give EXDEV."""
    assert errno.EXDEV == carry(_link, folder / "a", "/dev/shm/threadlets-link").errno
    assert errno.EXDEV == carry(_rename, folder / "a", "/dev/shm/threadlets-link").errno


def test_names_have_all_bytes_but_two(carry: Carry, tmp_path: Path) -> None:
    """A name may have newlines, bytes that are no UTF-8, and 255 bytes in all."""
    names = [b"new\nline", b"\xff\xfe\x80", b"x" * 255, "ü€😀".encode(), b" ", b"-", b"\x01\x7f"]
    for name in names:
        assert carry(_make_folder, os.fsencode(tmp_path) + b"/" + name).ok
        assert errno.EEXIST == carry(_make_folder, tmp_path / os.fsdecode(name)).errno
    assert sorted(names) == sorted(os.listdir(os.fsencode(tmp_path)))


def test_getdents_reads_a_folder(carry: Carry, folder: Path) -> None:
    """The records are the kernel's; after the last entry the value is 0."""
    entries, rest = carry(_list, folder).unwrap()
    assert 0 == rest
    names = []
    while entries:
        # struct linux_dirent64: the length is at 16, the name at 19.
        length = int.from_bytes(entries[16:18], sys.byteorder)
        names.append(entries[19:length].split(b"\0")[0])
        entries = entries[length:]
    assert sorted([b".", b"..", *os.listdir(os.fsencode(folder))]) == sorted(names)


def test_getdents_says_why_it_cannot(carry: Carry, folder: Path, fd_of: FdOf) -> None:
    """Too small a buffer gives EINVAL, a file ENOTDIR, and a closed descriptor EBADF."""
    assert (errno.EINVAL, 1) == _of(carry(_list_into_little, folder))
    assert (errno.ENOTDIR, 0) == _of(carry(_list_descriptor, fd_of(folder / "a")))
    assert (errno.EBADF, 0) == _of(carry(_list_descriptor, 1_000_000))


def _of(result: Any) -> tuple[int, int]:
    return result.errno, result.atom
