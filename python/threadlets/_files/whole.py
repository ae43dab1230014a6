"""Whole files: `read_file`, `write_file`."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import stat
from typing import Any, overload

from threadlets import _core
from threadlets._files.arguments import bytes_of, int_of, size_of
from threadlets._files.descriptor import Descriptor
from threadlets._files.failures import (
    PathLike,
    close_quietly,
    failure,
    finish,
    os_error,
    read_failure,
)
from threadlets._files.opening import open_descriptor
from threadlets._public import set_module
from threadlets._syslets.program import syslet
from threadlets.atoms import (
    add,
    break_if,
    close,
    counter,
    fsync,
    growing,
    loop,
    openat,
    read,
    renameat,
    statx,
    unlinkat,
    when,
    write,
)

_NO_LIMIT = 2**62
_LOOKS_MAX = 5
"""How often the file behind a name is looked up, if it is being replaced."""
_LINKS_MAX = 40
"""The most links that are followed; it is the kernel's limit, too."""


@syslet
def _read(path: Any, limit: Any) -> Any:
    fd = yield openat(path)
    info = yield statx(dir_fd=fd, mask=0x200)
    data = growing(limit, expected=info.size)
    total = counter()
    with loop():
        n = yield read(fd, data)
        yield add(total, n)
        # A file of the size that statx gave ends here: the read had room for one byte more.
        break_if(total == info.size)
        break_if(n == 0)
    yield close(fd)
    return data


def _write_all(fd: Any, data: Any, length: Any, sync: Any) -> Any:
    n_written = counter()
    with loop():
        break_if(n_written == length)
        n = yield write(fd, data[n_written:])
        yield add(n_written, n)
    with when(sync != 0):
        yield fsync(fd)


@syslet
def _write(path: Any, data: Any, length: Any, mode: Any, sync: Any) -> Any:
    fd = yield openat(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    yield from _write_all(fd, data, length, sync)
    yield close(fd)


@syslet
def _fill(fd: Any, data: Any, length: Any, sync: Any) -> Any:
    yield from _write_all(fd, data, length, sync)


@syslet
def _status(path: Any) -> Any:
    info = yield statx(path, mask=0x103)
    return info.mode, info.ino, info.dev


@syslet
def _remove(path: Any) -> Any:
    yield unlinkat(path)


@syslet
def _put_in_place(temporary: Any, path: Any, folder: Any, sync: Any) -> Any:
    yield renameat(temporary, path)
    with when(sync != 0):
        fd = yield openat(folder, os.O_DIRECTORY)
        yield fsync(fd)
        yield close(fd)


@overload
async def read_file(
    path: PathLike, *, encoding: None = None, limit: int | None = None
) -> bytes: ...


@overload
async def read_file(path: PathLike, *, encoding: str, limit: int | None = None) -> str: ...


@set_module("threadlets")
async def read_file(
    path: PathLike, *, encoding: str | None = None, limit: int | None = None
) -> bytes | str:
    """Read a whole file: its bytes, or with an `encoding` its text, with newlines translated.

    `limit` is the largest size, in bytes, that is accepted. Files that do not report their size, such
    as those of /proc, and pipes are read to their end.

    Raises:
        ValueError: `limit` is negative.
        OSError: it cannot be read; errno EFBIG: it is larger than `limit`.
        MemoryError: there is no memory for it.
        UnicodeDecodeError: it is not in that encoding.
    """
    if limit is not None:
        limit = size_of(limit)
        if limit < 0:
            raise ValueError(f"limit is {limit}; it is a number of bytes, or None for any")
    # One byte more than the limit, to tell a file of just that size from a larger one.
    result = await _read(path, _NO_LIMIT if limit is None else min(limit, _NO_LIMIT) + 1)
    if result.errno or (limit is not None and len(result.value) > limit):
        if limit is not None and result.errno in (0, errno.ENOBUFS):
            raise os_error(errno.EFBIG, path)
        raise read_failure(result, path)
    data: bytes = result.value
    return data if encoding is None else _decoded(data, encoding)


@set_module("threadlets")
async def write_file(
    path: PathLike,
    data: bytes | bytearray | memoryview | str,
    *,
    atomic: bool = False,
    mode: int = 0o666,
    encoding: str | None = None,
    sync: bool = False,
) -> int:
    """Write a whole file, creating or replacing it; return its size in bytes.

    Text needs an `encoding`. A new file has the permissions `mode`, which the umask restricts;
    `sync` waits until everything is on the disk.

    With `atomic`, a reader of the file meanwhile, or after a crash (with `sync`), sees either the old
    content or all of `data`. A temporary file in the same folder replaces the old file at the end;
    it has the permissions of the old one, and is removed if anything fails or the task is cancelled.
    Symbolic links are followed. Owner, extended attributes and further hard links of the old file
    are lost.

    Raises:
        OSError: the file cannot be written.
        TypeError: text without an encoding, or an encoding without text.
    """
    view = bytes_of(_encoded(data, encoding))
    mode = int_of(mode)
    if atomic:
        await _write_atomically(path, view, mode, sync)
    else:
        result = await _write(path, view, len(view), mode, sync)
        if result.errno:
            raise failure(result, path)
    return len(view)


async def _write_atomically(path: PathLike, data: memoryview, mode: int, sync: bool) -> None:
    if os.fsencode(path).endswith(b"/"):
        # No file can have such a name: opening it raises the right error.
        fd, _ = await open_descriptor(path, os.O_WRONLY | os.O_CREAT)
        close_quietly(fd)
    try:
        target, mode_before = await _resolve_target(path)
        if mode_before is not None:
            mode = mode_before
        folder, _, name = target.rpartition(b"/")
        # A name may have 255 bytes, so the old one is cut; the random part makes it unique.
        temporary = b"%s/.%s.%s.tmp" % (folder, name[:220], secrets.token_hex(8).encode())
        try:
            await _store(temporary, data, mode, keeps_mode=mode_before is not None, sync=sync)
            result = await _put_in_place(temporary, target, folder or b"/", sync)
            if result.errno:
                raise failure(result)
        except BaseException:
            # The exception at hand says more than a cancellation that comes here.
            await finish(_remove, temporary)
            raise
    except OSError as error:
        if error.filename == os.fspath(path):
            raise
        raise os_error(error.errno or errno.EIO, path) from None


async def _resolve_target(path: PathLike) -> tuple[bytes, int | None]:
    """Return the name of the file behind `path`, and its permissions if there is one.

    A name in /proc may lead to a file that has no name, or no longer has one. Then the file and the
    one that its link names differ in every look-up; with a file that is being replaced, only in some.
    """
    seen = set()
    for _ in range(_LOOKS_MAX):
        before = await _status(path)
        if before.ok:
            _check_replaceable(path, before.value[0])
        elif before.errno != errno.ENOENT:
            raise failure(before, path)
        target = await _core.call(_follow_links, os.fsencode(path))
        if not before.ok:
            return target, None
        mode = stat.S_IMODE(before.value[0])
        found = (await _status(target)).value
        if found == before.value:
            return target, mode
        seen.add((before.value, found))
    if len(seen) == 1:
        raise _not_replaceable(path, "a file that is not where its name says")
    return target, mode


def _check_replaceable(path: PathLike, mode: int) -> None:
    """Refuse a file that must not be replaced by another."""
    if stat.S_ISDIR(mode):
        raise os_error(errno.EISDIR, path)
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
        raise _not_replaceable(path, next((it for fits, it in kinds if fits(mode)), "a device"))


def _not_replaceable(path: PathLike, what: str) -> OSError:
    message = f"an atomic write replaces a regular file, and this is {what}: leave `atomic` out"
    return shutil.SpecialFileError(errno.EINVAL, message, os.fspath(path))


def _follow_links(path: bytes) -> bytes:
    """Return the absolute name of the file that `path` leads to by links; it need not exist."""
    if not path:
        raise os_error(errno.ENOENT)
    path = os.path.join(os.getcwdb(), path)
    for _ in range(_LINKS_MAX):
        folder, name = os.path.split(path)
        if name in (b"", b".", b".."):
            # Only a folder can have this name.
            raise os_error(errno.ENOENT if name else errno.EISDIR)
        try:
            text = os.readlink(path)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return path
            raise
        path = os.path.join(folder, text)
    raise os_error(errno.ELOOP)


async def _store(path: bytes, data: memoryview, mode: int, *, keeps_mode: bool, sync: bool) -> None:
    """Create and write a file, which must not exist yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    fd, mode_made = await open_descriptor(path, flags, mode & 0o7777)
    descriptor = Descriptor(fd, owned=True)
    try:
        if keeps_mode and stat.S_IMODE(mode_made) != mode:
            os.fchmod(fd, mode)
        result = await _fill(fd, data, len(data), sync)
        if result.errno:
            raise failure(result)
    finally:
        await descriptor.close()


def _decoded(data: bytes, encoding: str) -> str:
    # As a text file decodes, with newlines translated.
    with io.TextIOWrapper(io.BytesIO(data), encoding) as text:
        return text.read()


def _encoded(data: Any, encoding: str | None) -> Any:
    if isinstance(data, str) != (encoding is not None):
        raise TypeError(
            "data is text, which needs an encoding: pass encoding='utf-8', or bytes"
            if encoding is None
            else f"data is {type(data).__name__}; an encoding is only for text (str)"
        )
    return data if encoding is None else data.encode(encoding)
