"""Atoms for files and folders."""

from __future__ import annotations

import os

from threadlets._syslets.atom import Atom
from threadlets._syslets.operands import (
    AT_FDCWD,
    Fd,
    Number,
    Path,
    SizeOrTarget,
    check_constant,
    make_atom,
)

AT_EMPTY_PATH = 0x1000
AT_REMOVEDIR = 0x200
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20


def openat(
    path: Path, flags: int = os.O_RDONLY, mode: Number = 0o666, *, dir_fd: Fd = AT_FDCWD
) -> Atom:
    """Open a file; the value is its descriptor, which is closed when the run ends.

    Close it earlier with `close`, or return it to hand it over. `flags` are those of os.open, and
    must be constant; O_CLOEXEC is added. See openat(2).

    Errors: ENOENT, EACCES, EEXIST, EISDIR, ELOOP, EMFILE, ENAMETOOLONG, ENOTDIR, EROFS.
    """
    return make_atom("openat", dir_fd, path, check_constant(flags, "flags") | os.O_CLOEXEC, mode)


def openat2(
    path: Path,
    flags: int = os.O_RDONLY,
    mode: Number = 0,
    resolve: Number = 0,
    *,
    dir_fd: Fd = AT_FDCWD,
) -> Atom:
    """Open a file as `openat` does; `resolve` (RESOLVE_BENEATH …) restricts where its path may lead.

    `mode` must be 0 unless `flags` create a file. See openat2(2).

    Errors: those of openat; EXDEV and ELOOP for a path that `resolve` forbids, EINVAL for flags or
    a mode that openat would ignore, EAGAIN, ENOSYS.
    """
    return make_atom(
        "openat2", dir_fd, path, check_constant(flags, "flags") | os.O_CLOEXEC, mode, resolve
    )


def statx(
    path: Path = "",
    *,
    dir_fd: Fd = AT_FDCWD,
    flags: Number = 0,
    mask: Number = STATX_BASIC_STATS | STATX_BTIME,
) -> Atom:
    """Get a file's status; the value is 0, and has fields: `info.size`, `info.mtime_ns` ….

    Without a path it is the status of `dir_fd` itself. Sizes are in bytes, `blocks` in units of 512
    bytes, times in nanoseconds since the epoch. See statx(2).

    Errors: ENOENT, EACCES, EBADF, ELOOP, ENAMETOOLONG, ENOTDIR.
    """
    if isinstance(path, str | bytes) and not path and isinstance(flags, int):
        flags |= AT_EMPTY_PATH
    return make_atom("statx", dir_fd, path, flags, mask)


def fsync(fd: Fd) -> Atom:
    """Wait until a file's content and status are on the disk; see fsync(2).

    Errors: EBADF, EIO, ENOSPC, EINVAL for a descriptor that cannot be synchronised.
    """
    return make_atom("fsync", fd)


def fdatasync(fd: Fd) -> Atom:
    """Wait until a file's content, and the status needed to read it, is on the disk: fdatasync(2).

    Errors: EBADF, EIO, ENOSPC, EINVAL for a descriptor that cannot be synchronised.
    """
    return make_atom("fdatasync", fd)


def fallocate(fd: Fd, mode: Number, offset: Number, length: Number) -> Atom:
    """Reserve or free `length` bytes of a file from `offset` on, as `mode` says; see fallocate(2).

    Errors: EBADF, EFBIG, EINVAL, EIO, ENOSPC, EOPNOTSUPP for a file system without support.
    """
    return make_atom("fallocate", fd, mode, offset, length)


def ftruncate(fd: Fd, length: Number) -> Atom:
    """Cut or extend a file to `length` bytes; new bytes read as zeros; see ftruncate(2).

    Errors: EBADF, EFBIG, EINVAL for a descriptor that is not open for writing, EIO.
    """
    return make_atom("ftruncate", fd, length)


def close(fd: Fd) -> Atom:
    """Close a descriptor; an error leaves it closed, too; see close(2).

    Errors: EBADF; EIO, ENOSPC or EDQUOT of an earlier write.
    """
    return make_atom("close", fd)


def unlinkat(path: Path, *, dir_fd: Fd = AT_FDCWD, flags: Number = 0) -> Atom:
    """Remove a file's name, or with AT_REMOVEDIR an empty folder; see unlinkat(2).

    Errors: ENOENT, EACCES, EBUSY, EISDIR, ENOTDIR, ENOTEMPTY, EPERM, EROFS.
    """
    return make_atom("unlinkat", dir_fd, path, flags)


def renameat(
    src: Path,
    dst: Path,
    *,
    src_dir_fd: Fd = AT_FDCWD,
    dst_dir_fd: Fd = AT_FDCWD,
    flags: Number = 0,
) -> Atom:
    """Rename `src` to `dst`, replacing an existing file atomically; see renameat2(2).

    `flags`: RENAME_NOREPLACE refuses to replace, RENAME_EXCHANGE swaps the two.

    Errors: ENOENT, EACCES, EEXIST, EINVAL, EISDIR, ENOTDIR, ENOTEMPTY, EROFS, EXDEV.
    """
    return make_atom("renameat", src_dir_fd, src, dst_dir_fd, dst, flags)


def mkdirat(path: Path, mode: Number = 0o777, *, dir_fd: Fd = AT_FDCWD) -> Atom:
    """Make a folder with `mode`, which the umask restricts; see mkdirat(2).

    Errors: EEXIST, EACCES, ENOENT, ENOSPC, ENOTDIR, EROFS.
    """
    return make_atom("mkdirat", dir_fd, path, mode)


def linkat(
    src: Path,
    dst: Path,
    *,
    src_dir_fd: Fd = AT_FDCWD,
    dst_dir_fd: Fd = AT_FDCWD,
    flags: Number = 0,
) -> Atom:
    """Make `dst` a hard link to the file `src`; see linkat(2).

    If `src` is a symbolic link, it is followed only with AT_SYMLINK_FOLLOW in `flags`.

    Errors: EEXIST, EACCES, ELOOP, EMLINK, ENOENT, ENOTDIR, EPERM, EROFS, EXDEV.
    """
    return make_atom("linkat", src_dir_fd, src, dst_dir_fd, dst, flags)


def symlinkat(src: Path, dst: Path, *, dir_fd: Fd = AT_FDCWD) -> Atom:
    """Make a symbolic link `dst` that points to `src`; see symlinkat(2).

    Errors: EEXIST, EACCES, ENAMETOOLONG, ENOENT, ENOTDIR, EROFS.
    """
    return make_atom("symlinkat", src, dir_fd, dst)


def getdents(fd: Fd, buffer: SizeOrTarget) -> Atom:
    """Read entries of a folder as the kernel writes them (struct linux_dirent64); see getdents64(2).

    If `buffer` is a size in bytes, the value is the bytes that were read, b"" after the last entry.
    If it is memory, the value is the number of bytes that were read into it, 0 after the last.

    Errors: EBADF, EINVAL for a buffer that is too small for an entry, ENOENT, ENOTDIR.
    """
    return make_atom("getdents", fd, buffer)
