"""Files as a whole: `read_file`, `write_file`."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from typing import Any, overload

from threadlets import _core
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
    when,
    write,
)
from threadlets.files.failures import PathLike, failure, os_error, read_failure
from threadlets.files.opening import open_descriptor
from threadlets.syslets import syslet

_NO_LIMIT = 2**62


@syslet
def _read(path: Any, limit: Any) -> Any:
    fd = yield openat(path)
    info = yield statx(dir_fd=fd, mask=0x200)
    data = growing(limit, expected=info.size)
    total = counter()
    with loop():
        n = yield read(fd, data)
        yield add(total, n)
        # A file of the size that it says ends here; there was room for a byte more.
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
    info = yield statx(path, mask=3)
    return info.mode


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


async def read_file(
    path: PathLike, *, encoding: str | None = None, limit: int | None = None
) -> bytes | str:
    """Read a whole file: its bytes, or with an `encoding` its text, with newlines translated.

    `limit` is the largest size, in bytes, that is accepted. Files that do not tell their size, as
    those of /proc, and pipes are read to their end.

    Raises:
        OSError: it cannot be read; errno EFBIG: it is larger than `limit`.
        MemoryError: there is no memory for it.
        UnicodeDecodeError: it is not in that encoding.
    """
    # One byte more than the limit, so that what is just as large can be told from what is larger.
    result = await _read(path, _NO_LIMIT if limit is None else limit + 1)
    if result.errno or (limit is not None and len(result.value) > limit):
        if limit is not None and result.errno in (0, errno.ENOBUFS):
            raise os_error(errno.EFBIG, path)
        raise read_failure(result, path)
    data: bytes = result.value
    return data if encoding is None else _decoded(data, encoding)


async def write_file(
    path: PathLike,
    data: bytes | bytearray | memoryview | str,
    *,
    atomic: bool = False,
    mode: int = 0o666,
    encoding: str | None = None,
    sync: bool = False,
) -> int:
    """Write a whole file, made or replaced; return its size in bytes.

    Text needs an `encoding`. A new file has the permissions `mode`, which the umask restricts;
    `sync` waits until everything is on the disk.

    `atomic`: whoever opens the file meanwhile, or after a crash (with `sync`), sees either what was
    there before or all of `data`. A temporary file in the same folder takes the file's place at the
    end; it has the permissions of what it replaces, and is removed if anything fails or the task is
    cancelled. Symbolic links are followed. Owner, extended attributes and further hard links of
    what is replaced are lost.

    Raises:
        OSError: something cannot be written.
        TypeError: text without an encoding, or an encoding without text.
    """
    view = memoryview(_encoded(data, encoding)).cast("B")
    if atomic:
        await _write_atomically(path, view, mode, sync)
    else:
        result = await _write(path, view, len(view), mode, sync)
        if result.errno:
            raise failure(result, path)
    return len(view)


async def _write_atomically(path: PathLike, data: memoryview, mode: int, sync: bool) -> None:
    # The name that is replaced must be the file's own, not that of a link to it.
    target = os.fsencode(await _core.call(os.path.realpath, os.fsencode(path)))
    before = await _status(target)
    if before.ok:
        if stat.S_ISDIR(before.value):
            raise os_error(errno.EISDIR, path)
        mode = stat.S_IMODE(before.value)
    folder, _, name = target.rpartition(b"/")
    # A name may have 255 bytes; what is cut off does not matter.
    temporary = b"%s/.%s.%s.tmp" % (folder, name[:220], secrets.token_hex(8).encode())
    try:
        await _store(temporary, data, mode, keeps_mode=before.ok, sync=sync)
        result = await _put_in_place(temporary, target, folder or b"/", sync)
        if result.errno:
            raise failure(result, path)
    except OSError as error:
        await _removed(temporary)
        raise os_error(error.errno or errno.EIO, path) from None
    except BaseException:
        await _removed(temporary)
        raise


async def _store(path: bytes, data: memoryview, mode: int, *, keeps_mode: bool, sync: bool) -> None:
    """Make a file, which must not be there yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    fd, mode_made = await open_descriptor(path, flags, mode & 0o777)
    try:
        if keeps_mode and stat.S_IMODE(mode_made) != mode:
            os.fchmod(fd, mode)
        result = await _fill(fd, data, len(data), sync)
        if result.errno:
            raise failure(result)
    finally:
        await _core.clean_up(os.close, fd)


async def _removed(path: bytes) -> None:
    # It is not stopped by another cancellation.
    await _core.clean_up(_remove_quietly, path)


def _remove_quietly(path: bytes) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _decoded(data: bytes, encoding: str) -> str:
    # As a text file does it, newlines included.
    with io.TextIOWrapper(io.BytesIO(data), encoding) as text:
        return text.read()


def _encoded(data: Any, encoding: str | None) -> Any:
    if isinstance(data, str) != (encoding is not None):
        raise TypeError(
            "data is text, which needs an encoding"
            if encoding is None
            else f"data is {type(data).__name__}, which an encoding is not for"
        )
    return data if encoding is None else data.encode(encoding)
