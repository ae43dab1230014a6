"""`copy_file`: copies a file's content and permissions; holes stay holes."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from typing import Any

from threadlets import _core
from threadlets._files.failures import PathLike, failure, finish, os_error, run
from threadlets._public import set_module
from threadlets._syslets.program import syslet
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

_CHUNK = 256 * 1024
"""How many bytes a program reads and writes at a time."""
_STEP = 32 * 1024 * 1024
"""How many bytes the kernel is asked to copy at once; a cancellation waits for that."""

_UNABLE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)
"""Errors by which the kernel refuses to copy between two files; some may also be genuine errors."""


@syslet
def _copy(source: Any, target: Any) -> Any:
    named = yield statx(source, mask=1)
    # The types below S_IFREG are folders, pipes and devices. Of those above, links were followed,
    # and a socket cannot be opened.
    stop_if(named.mode < stat.S_IFREG, (named.mode, 0))
    there = yield statx(target, mask=1).unchecked()
    # Opening a named pipe for writing would wait for a reader.
    with when(there == 0), when(there.mode >= stat.S_IFIFO):
        stop_if(there.mode < stat.S_IFCHR, (0, there.mode))
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
        stop_if(n == 0, (info.mode, made.mode, -1, -1, 0))
    return info.mode, made.mode, src, dst, info.size


@syslet
def _copy_rest(src: Any, dst: Any) -> Any:
    chunk = buffer(_CHUNK)
    with loop():
        n = yield read(src, chunk)
        break_if(n == 0)
        yield write(dst, chunk[:n])


@syslet
def _close_both(src: Any, dst: Any) -> Any:
    yield close(src).unchecked()
    yield close(dst)


@syslet
def _link(text: Any, path: Any) -> Any:
    yield symlinkat(text, path)


@set_module("threadlets")
async def copy_file(source: PathLike, target: PathLike, *, follow_symlinks: bool = True) -> None:
    """Copy a file's content and permissions to `target`, a file that is created or overwritten.

    Holes stay holes, and a file system that can share content between files does so. Without
    `follow_symlinks`, a `source` that is a symbolic link gives another link with the same text.
    If the copy fails or is cancelled, `target` has a part of the content. A `target` that is a device
    is written to, and keeps its permissions.

    Raises:
        shutil.SameFileError: both are the same file.
        IsADirectoryError: one of them is a folder.
        shutil.SpecialFileError: `source` is no regular file, or `target` is a named pipe.
        OSError: a file cannot be opened, and is the error's `filename`; or reading or writing fails,
            and `source` and `target` are its `filename` and `filename2`.
    """
    if not follow_symlinks and await _core.call(os.path.islink, source):
        text = await _core.call(os.readlink, source)
        result = await _link(text, target)
        if result.errno:
            raise failure(result, text, target)
        return
    result, cancellation = await run(_copy, source, target)
    if cancellation is not None:
        # Dropping a result whose value was not read closes the descriptors in it.
        del result
        raise cancellation
    if result.errno:
        raise _copy_failure(result, source, target)
    match result.value:
        case (mode, mode_made, src, dst, size):
            is_file = stat.S_ISREG(mode_made)
            if src >= 0:
                await _copy_large(source, target, src, dst, size if is_file else None)
            if is_file and stat.S_IMODE(mode) != stat.S_IMODE(mode_made):
                await _core.call(os.chmod, target, stat.S_IMODE(mode))
        case None:
            raise shutil.SameFileError(f"{source!r} and {target!r} are the same file")
        case (mode, 0):
            if stat.S_ISDIR(mode):
                raise os_error(errno.EISDIR, source)
            raise shutil.SpecialFileError(f"{source!r} is no regular file")
        case _:
            raise shutil.SpecialFileError(
                f"{target!r} is a named pipe, which cannot hold a copy: open it to write to it"
            )


def _copy_failure(result: _core.Result, source: PathLike, target: PathLike) -> OSError:
    # The program opens the source first, then the target.
    rows = _copy.table.rows()
    opened = [index for index, row in enumerate(rows) if row.op == "openat"]
    if rows[result.atom].op in ("read", "write"):
        return failure(result, source, target)
    return failure(result, source if result.atom < opened[1] else target)


async def _copy_large(
    source: PathLike, target: PathLike, src: int, dst: int, size: int | None
) -> None:
    """Copy between two open files and close them; `size` is None if `target` is a device."""
    try:
        if size is None:
            await _read_and_write(src, dst)
        else:
            await _copy_content(src, dst, size)
    except OSError as error:
        await finish(_close_both, src, dst)
        raise os_error(error.errno or errno.EIO, source, target) from None
    except BaseException:
        await finish(_close_both, src, dst)
        raise
    result, cancellation = await finish(_close_both, src, dst)
    if result.errno:
        raise failure(result, target)
    if cancellation is not None:
        raise cancellation


async def _copy_content(src: int, dst: int, size: int) -> None:
    """Let the kernel copy a file in steps; if it cannot, read and write the rest."""
    position, is_over = 0, False
    try:
        while not is_over:
            position, is_over = await _core.call(_copy_step, src, dst, position, size)
        await _core.call(os.ftruncate, dst, position)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        for fd in (src, dst):
            os.lseek(fd, position, os.SEEK_SET)
        await _read_and_write(src, dst)


async def _read_and_write(src: int, dst: int) -> None:
    result = await _copy_rest(src, dst)
    if result.errno:
        raise failure(result)


def _copy_step(src: int, dst: int, position: int, size: int) -> tuple[int, bool]:
    """Copy the next bytes that are no hole, `_STEP` at most.

    Return the position after them, and whether it is the end. A file that is cut meanwhile ends
    where it is cut; bytes that are added beyond `size` are not copied.
    """
    try:
        start = os.lseek(src, position, os.SEEK_DATA)
        if start < size:
            end = min(os.lseek(src, start, os.SEEK_HOLE), size)
            n_copied = os.copy_file_range(src, dst, min(end - start, _STEP), start, start)
            if n_copied:
                return start + n_copied, start + n_copied == size
    except OSError as error:
        # ENXIO: there is no data after `position`.
        if error.errno != errno.ENXIO:
            raise
    return max(position, min(os.fstat(src).st_size, size)), True
