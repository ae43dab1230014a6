"""Atoms that move bytes between files, pipes and memory."""

from __future__ import annotations

from collections.abc import Sequence

from threadlets._syslets.atom import Atom
from threadlets._syslets.operands import Fd, Number, SizeOrTarget, Source, Target, make_atom


def read(fd: Fd, buffer: SizeOrTarget) -> Atom:
    """Read at the file's position, as much as is available and fits; see read(2).

    If `buffer` is a size in bytes, the value is the bytes that were read, as of os.read: `size` at
    most, b"" at the end of the file. If it is memory, the value is the number of bytes that were
    read into it, 0 at the end.

    Errors: EBADF, EAGAIN, EIO, EISDIR, EINVAL, ECONNRESET.
    """
    return make_atom("read", fd, buffer)


def write(fd: Fd, data: Source) -> Atom:
    """Write `data` at the file's position; the value is the number of bytes written; see write(2).

    It writes all of `data`, also where the kernel takes only a part at a time. If it fails on the
    way, on a full disk or a pipe without a reader, `Result.progress` is the number of bytes written.

    Errors: EBADF, EAGAIN, EFBIG, EIO, ENOSPC, EPIPE.
    """
    return make_atom("write", fd, data)


def pread(fd: Fd, buffer: SizeOrTarget, offset: Number) -> Atom:
    """Read from byte `offset` on, without moving the file's position; see pread(2).

    If `buffer` is a size in bytes, the value is the bytes that were read, b"" at the end of the
    file. If it is memory, the value is the number of bytes that were read into it, 0 at the end.

    Errors: EBADF, EINVAL, EIO, EISDIR, ESPIPE for a descriptor without a position.
    """
    return make_atom("pread", fd, buffer, offset)


def pwrite(fd: Fd, data: Source, offset: Number) -> Atom:
    """Write from byte `offset` on, without moving the file's position; see pwrite(2).

    The value is the number of bytes written.

    Errors: EBADF, EFBIG, EINVAL, EIO, ENOSPC, ESPIPE for a descriptor without a position.
    """
    return make_atom("pwrite", fd, data, offset)


def readv(fd: Fd, buffers: Target | Sequence[Target], offset: Number | None = None) -> Atom:
    """Read into several buffers, one after another; the value is the number of bytes.

    It reads from byte `offset` on, or at the file's position (None); see preadv(2).

    Errors: EBADF, EAGAIN, EINVAL, EIO, EISDIR, ESPIPE.
    """
    return make_atom("readv", fd, buffers, offset)


def writev(fd: Fd, buffers: Source | Sequence[Source], offset: Number | None = None) -> Atom:
    """Write several pieces of memory, one after another; the value is the number of bytes written.

    It writes from byte `offset` on, or at the file's position (None); see pwritev(2).

    Errors: EBADF, EAGAIN, EFBIG, EINVAL, EIO, ENOSPC, EPIPE, ESPIPE.
    """
    return make_atom("writev", fd, buffers, offset)


def splice(
    src: Fd,
    dst: Fd,
    count: Number,
    offset_src: Number | None = -1,
    offset_dst: Number | None = -1,
    flags: Number = 0,
) -> Atom:
    """Move up to `count` bytes from `src` to `dst`, one of which is a pipe; see splice(2).

    The value is the number of bytes, 0 at the end. An offset of -1 or None is the file's position.

    Errors: EBADF, EAGAIN, EINVAL if neither is a pipe, ESPIPE.
    """
    return make_atom("splice", src, offset_src, dst, offset_dst, count, flags)


def sendfile(out_fd: Fd, in_fd: Fd, offset: Number | None, count: Number) -> Atom:
    """Send up to `count` bytes of a file from byte `offset` on; the value is the number sent.

    An `offset` of None reads at the file's position, and moves it. See sendfile(2).

    Errors: EBADF, EAGAIN, EINVAL for an `in_fd` that is no file, EIO, EPIPE, ECONNRESET.
    """
    return make_atom("sendfile", out_fd, in_fd, offset, count)
