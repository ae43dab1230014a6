"""`copy_file`: a file's content and permissions; its holes stay holes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from typing import Any

from threadlets import _core
from threadlets.atoms import (
    break_if,
    buffer,
    close,
    ftruncate,
    loop,
    openat,
    read,
    statx,
    stop_if,
    symlinkat,
    when,
    write,
)
from threadlets.files.failures import PathLike, failure, os_error, run
from threadlets.syslets import syslet

_CHUNK = 256 * 1024
"""How much a program reads and writes at a time, in bytes."""
_STEP = 32 * 1024 * 1024
"""How much the kernel is asked to copy at once, in bytes: what a cancellation waits for."""

_UNABLE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)
"""What the kernel says if it cannot copy between two files by itself, errors in earnest included."""


@syslet
def _copy(source: Any, target: Any) -> Any:
    named = yield statx(source, mask=1)
    # Only files have their type's bits from there on, up to those of links.
    stop_if(named.mode < stat.S_IFREG, named.mode)
    src = yield openat(source)
    info = yield statx(dir_fd=src, mask=0x703)
    dst = yield openat(target, os.O_WRONLY | os.O_CREAT, info.mode)
    made = yield statx(dir_fd=dst, mask=0x703)
    with when(info.ino == made.ino):
        stop_if(info.dev == made.dev)
    with when(made.size != 0):
        yield ftruncate(dst, 0)
    with when(info.size <= _CHUNK):
        chunk = buffer(_CHUNK)
        with loop():
            n = yield read(src, chunk)
            break_if(n == 0)
            yield write(dst, chunk[:n])
        yield close(src)
        yield close(dst)
        stop_if(n == 0, ((info.mode, made.mode), -1, -1, 0))
    return (info.mode, made.mode), src, dst, info.size


@syslet
def _copy_rest(src: Any, dst: Any) -> Any:
    chunk = buffer(_CHUNK)
    with loop():
        n = yield read(src, chunk)
        break_if(n == 0)
        yield write(dst, chunk[:n])


@syslet
def _link(text: Any, path: Any) -> Any:
    yield symlinkat(text, path)


async def copy_file(source: PathLike, target: PathLike, *, follow_symlinks: bool = True) -> None:
    """Copy a file's content and permissions to `target`, a file that is made or overwritten.

    Holes are not filled, and a file system that can share content between files does. Without
    `follow_symlinks`, a `source` that is a symbolic link gives another link with the same text.
    If it fails or is cancelled, `target` has a part of the content.

    Raises:
        shutil.SameFileError: both are the same file.
        IsADirectoryError: one of them is a folder.
        shutil.SpecialFileError: `source` is no regular file.
        OSError: something cannot be read or written.
    """
    if not follow_symlinks and await _core.call(os.path.islink, source):
        text = await _core.call(os.readlink, source)
        result = await _link(text, target)
        if result.errno:
            raise failure(result, text, target)
        return
    result, cancellation = await run(_copy, source, target)
    modes, src, dst, size = result.value if isinstance(result.value, tuple) else (None, -1, -1, 0)
    try:
        if cancellation is not None:
            raise cancellation
        if result.errno:
            raise _copy_failure(result, source, target)
        if modes is None:
            raise _refusal(result.value, source, target)
        if src >= 0:
            await _copy_large(src, dst, size)
        mode, mode_made = map(stat.S_IMODE, modes)
        if mode != mode_made:
            await _core.call(os.chmod, target, mode)
    finally:
        for fd in (src, dst):
            if fd >= 0:
                await _core.clean_up(os.close, fd)


def _refusal(file_type: int | None, source: PathLike, target: PathLike) -> OSError:
    if file_type is None:
        return shutil.SameFileError(f"{source!r} and {target!r} are the same file")
    if stat.S_ISDIR(file_type):
        return os_error(errno.EISDIR, source)
    return shutil.SpecialFileError(f"{source!r} is no regular file")


def _copy_failure(result: _core.Result, source: PathLike, target: PathLike) -> OSError:
    # The second file to be opened is the target.
    opened = [index for index, row in enumerate(_copy.table.rows()) if row.op == "openat"]
    return failure(result, source if result.atom < opened[1] else target)


async def _copy_large(src: int, dst: int, size: int) -> None:
    """Have the kernel copy a file, in steps; read and write what it cannot."""
    position = 0
    try:
        while position < size:
            position = await _core.call(_copy_step, src, dst, position, size)
        await _core.call(os.ftruncate, dst, position)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        for fd in (src, dst):
            os.lseek(fd, position, os.SEEK_SET)
        result = await _copy_rest(src, dst)
        if result.errno:
            raise failure(result) from error


def _copy_step(src: int, dst: int, position: int, size: int) -> int:
    """Copy some of the next bytes that are no hole, and return the position behind them."""
    try:
        start = os.lseek(src, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise
    end = os.lseek(src, start, os.SEEK_HOLE)
    n_copied = os.copy_file_range(src, dst, min(end - start, _STEP), start, start)
    # None: somebody has cut the file.
    return start + n_copied if n_copied else size
