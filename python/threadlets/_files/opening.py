"""`open`: opens a path or a descriptor as an `AsyncFile`."""

from __future__ import annotations

import errno
import functools
import os
import stat
import sys
import warnings
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, AnyStr, Generic, Literal, TypeAlias, overload

from threadlets._calls import call_or_discard
from threadlets._files.arguments import int_of
from threadlets._files.binary import Binary
from threadlets._files.descriptor import Descriptor
from threadlets._files.failures import (
    PathLike,
    close_quietly,
    failure,
    run,
    unsupported,
)
from threadlets._files.file import AsyncFile
from threadlets._files.modes import Mode, check_text_arguments, parse_mode
from threadlets._files.text import Text
from threadlets._public import set_module
from threadlets._syslets.program import Syslet, syslet
from threadlets.atoms import openat, statx

BUFFER_SIZE = 64 * 1024
"""The default size of a file's buffer, in bytes."""

Opener: TypeAlias = Callable[[Any, int], int]
BinaryMode: TypeAlias = Literal[
    "rb", "br", "wb", "bw", "ab", "ba", "xb", "bx",
    "r+b", "rb+", "+rb", "b+r", "br+", "+br",
    "w+b", "wb+", "+wb", "b+w", "bw+", "+bw",
    "a+b", "ab+", "+ab", "b+a", "ba+", "+ba",
    "x+b", "xb+", "+xb", "b+x", "bx+", "+bx",
]  # fmt: skip

TextMode: TypeAlias = Literal[
    "r", "+r", "r+", "rt", "tr", "+rt", "+tr", "r+t", "rt+", "t+r", "tr+",
    "w", "+w", "w+", "tw", "wt", "+tw", "+wt", "t+w", "tw+", "w+t", "wt+",
    "a", "+a", "a+", "at", "ta", "+at", "+ta", "a+t", "at+", "t+a", "ta+",
    "x", "+x", "x+", "tx", "xt", "+tx", "+xt", "t+x", "tx+", "x+t", "xt+",
]  # fmt: skip


class Opening(Generic[AnyStr]):
    """A file that is yet to be opened: `file = await opening`, or `async with opening as file:`."""

    def __init__(self, opened: Callable[[], Any]) -> None:
        self._open_fd = opened
        self._file: AsyncFile[AnyStr] | None = None
        self._is_entered = False

    def __await__(self) -> Generator[Any, Any, AsyncFile[AnyStr]]:
        file: AsyncFile[AnyStr] = yield from self._open_fd().__await__()
        return file

    async def __aenter__(self) -> AsyncFile[AnyStr]:
        if self._is_entered:
            raise RuntimeError("this file is already in use; call open() again for another one")
        self._is_entered = True
        try:
            self._file = file = await self
        except BaseException:
            self._is_entered = False
            raise
        return file

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        file, self._file = self._file, None
        self._is_entered = False
        if file is not None:
            await file.close()


@overload
def open(  # noqa: A001
    file: PathLike | int,
    mode: BinaryMode,
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    *,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[bytes]: ...


@overload
def open(  # noqa: A001
    file: PathLike | int,
    mode: TextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    *,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[str]: ...


@overload
def open(  # noqa: A001
    file: PathLike | int,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    *,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[Any]: ...


@set_module("threadlets")
def open(  # noqa: A001 - it is what the builtin is
    file: PathLike | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    *,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[Any]:
    """Open a file: `file = await open(…)`, or `async with open(…) as file:`.

    The arguments are those of the builtin `open`, and mean the same. `opener` is called as a
    threadlet, so it may block.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `mode` is invalid, or arguments contradict one another.
        OSError: on `await`: the file cannot be opened; the error's `filename` is `file`.
    """
    parsed = parse_mode(mode)
    buffering = int_of(buffering)
    if sys.version_info < (3, 12):
        int_of(closefd)
    check_text_arguments(parsed, buffering, encoding, errors, newline)
    if buffering == 1 and parsed.is_binary:
        warnings.warn(
            "line buffering (buffering=1) isn't supported in binary mode, the default buffer size "
            "will be used",
            RuntimeWarning,
            stacklevel=2,
        )
    target: Any = file
    if hasattr(type(target), "__index__"):
        target = int_of(target)
        if target < 0:
            raise ValueError("negative file descriptor")
    else:
        target = os.fspath(target)
        if not closefd:
            raise ValueError("Cannot use closefd=False with file name")
    arguments = (target, parsed, buffering, encoding, errors, newline, closefd, opener)
    return Opening(functools.partial(_open, *arguments))


async def _open(
    file: str | bytes | int,
    mode: Mode,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    opener: Opener | None,
) -> AsyncFile[Any]:
    fd, file_type = await _open_fd(file, mode, opener)
    descriptor = Descriptor(fd, owned=closefd)
    try:
        if file_type == stat.S_IFDIR:
            # A descriptor that the caller passed stays open if it is refused.
            descriptor.owned = not isinstance(file, int)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
        if mode.action == "a" and descriptor.seekable():
            descriptor.seek(0, os.SEEK_END)
        is_terminal = file_type == stat.S_IFCHR and buffering < 0 and os.isatty(fd)
        size = BUFFER_SIZE if buffering < 0 or buffering == 1 else buffering
        both = mode.readable and mode.writable
        if both and size and not descriptor.seekable():
            raise unsupported("File or stream is not seekable.")
        binary = Binary(descriptor, readable=mode.readable, writable=mode.writable, size=size)
        if mode.is_binary:
            return AsyncFile(binary, file, mode.name)
        line_buffering = buffering == 1 or is_terminal
        text = Text(binary, encoding, errors, newline, line_buffering=line_buffering)
        return AsyncFile(text, file, mode.name)
    except BaseException:
        await descriptor.close()
        raise


async def _open_fd(file: str | bytes | int, mode: Mode, opener: Opener | None) -> tuple[int, int]:
    """Open a file, and return its descriptor and the type of the file (stat.S_IFREG …)."""
    if isinstance(file, int):
        return file, stat.S_IFMT(os.fstat(file).st_mode)
    if opener is not None:
        return await call_or_discard(
            _discard, _call_opener, opener, file, mode.flags | os.O_CLOEXEC
        )
    fd, mode_bits = await open_descriptor(file, mode.flags)
    return fd, stat.S_IFMT(mode_bits)


def _call_opener(opener: Opener, file: str | bytes, flags: int) -> tuple[int, int]:
    fd = opener(file, flags)
    if not isinstance(fd, int):
        raise TypeError("expected integer from opener")
    if fd < 0:
        raise ValueError(f"opener returned {fd}")
    try:
        os.set_inheritable(fd, False)
        return fd, stat.S_IFMT(os.fstat(fd).st_mode)
    except BaseException:
        close_quietly(fd)
        raise


def _discard(opened: tuple[int, int]) -> None:
    close_quietly(opened[0])


async def open_descriptor(path: PathLike, flags: int, mode: int = 0o666) -> tuple[int, int]:
    """Open a file, and return its descriptor and its mode; if cancelled, nothing stays open.

    Raises:
        OSError: it cannot be opened.
    """
    result, cancellation = await run(_program_to_open(flags), path, mode)
    if cancellation is not None:
        # Dropping a result whose value was not read closes the descriptor in it.
        del result
        raise cancellation
    if result.errno:
        raise failure(result, path)
    fd, mode_bits = result.value
    return fd, mode_bits


@functools.cache
def _program_to_open(flags: int) -> Syslet[...]:
    @syslet
    def open_file(path: Any, mode: Any) -> Any:
        fd = yield openat(path, flags, mode)
        info = yield statx(dir_fd=fd, mask=3)
        return fd, info.mode

    return open_file
