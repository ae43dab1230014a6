"""`AsyncFile`: an open file, which runs one call at a time, in whichever tasks they are made."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Any, AnyStr, Generic, Self, cast

from threadlets._core import checkpoint
from threadlets._files.arguments import (
    bytes_of,
    int_of,
    size_of,
    size_or_all,
    writable_bytes_of,
)
from threadlets._files.binary import Binary
from threadlets._files.descriptor import Descriptor
from threadlets._files.failures import unsupported
from threadlets._files.text import Text
from threadlets._public import set_module


@set_module("threadlets")
class AsyncFile(Generic[AnyStr]):
    """A file whose methods are those of `io`, to be awaited: of bytes, or of text (str).

    Several tasks may use one file: their calls run one at a time, in the order in which they were
    made. `async with file:` closes it at the end. `async for line in file:` iterates over its lines.

    A cancelled call is cut short. The next call reads again what it has read already; buffered data
    that is not written yet is not lost. Part of the data given to a cancelled `write` may be in the
    file. Data that a call had written before it failed, on a full disk or a pipe without a reader, is
    not written again: the next flush continues with the rest.

    Raises:
        OSError: from any method: a system call fails.
        io.UnsupportedOperation: the file is not open for reading, not open for writing, or has no
            positions.
        ValueError: from any method but `close`: the file is closed.
    """

    def __init__(self, layer: Binary | Text, name: Any, mode: str) -> None:
        self._layer: Any = layer
        self._binary = layer if isinstance(layer, Binary) else layer.binary
        self._lock = _FileLock()
        self._closed = False
        self.name = name
        """The argument of `open`: a path, or a descriptor."""
        self.mode = mode

    async def read(self, size: int | None = -1) -> AnyStr:
        """Read `size` bytes or characters, fewer only at the end; None or -1: up to the end.

        A file without a buffer returns what one system call gives.
        """
        self._check_readable(size)
        n = size_or_all(size)
        async with self._lock:
            return cast(AnyStr, await self._open_layer().read(n))

    async def readall(self) -> bytes:
        """Read up to the end, like an unbuffered file of the builtin `open`; not for text."""
        async with self._lock:
            return await self._open_binary().read(-1)

    async def read1(self, size: int = -1) -> bytes:
        """Read up to `size` bytes with at most one system call; not for text."""
        self._check_readable(size)
        n = size_of(size)
        async with self._lock:
            return await self._open_binary().read1(n)

    async def peek(self, size: int = 0) -> bytes:
        """Return some of the next bytes, at least one before the end, without moving; not for text.

        `size` is not used.
        """
        size_of(size)
        async with self._lock:
            return await self._open_binary().peek()

    async def readinto(self, buffer: Any) -> int:
        """Read into writable memory until it is full, and return the number of bytes; not for text.

        It is less than the memory's size only at the end. Bytes that are not in the file's buffer
        are read directly into the memory, which must not be resized, and should not be read, before
        the call returns.
        """
        memory = writable_bytes_of(buffer)
        self._check_readable()
        async with self._lock:
            return await self._open_binary().readinto(memory)

    async def readinto1(self, buffer: Any) -> int:
        """Read into writable memory with at most one system call; not for text."""
        memory = writable_bytes_of(buffer)
        self._check_readable()
        async with self._lock:
            return await self._open_binary().readinto(memory, once=True)

    async def readline(self, size: int | None = -1) -> AnyStr:
        """Read a line with its newline, at most `size` bytes or characters; empty at the end."""
        n = size_of(size) if self._is_text else size_or_all(size)
        self._check_readable()
        async with self._lock:
            return cast(AnyStr, await self._open_layer().readline(n))

    async def readlines(self, hint: int | None = -1) -> list[AnyStr]:
        """Read lines up to the end, or until they have more than `hint` bytes or characters."""
        enough = size_or_all(hint)
        async with self._lock:
            layer = self._open_layer()
            lines: list[AnyStr] = []
            n_read = 0
            with layer.restoring_on_error():
                while line := await layer.readline():
                    lines.append(line)
                    n_read += len(line)
                    if 0 < enough < n_read:
                        break
            return lines

    async def write(self, data: Any) -> int:
        """Write bytes or text, or keep them in the buffer; return their number."""
        data = self._data(data)
        async with self._lock:
            n: int = await self._open_layer().write(data)
            return n

    async def writelines(self, lines: Iterable[Any]) -> None:
        """Write the lines one after another, with nothing between them."""
        async with self._lock:
            layer = self._open_layer()
            for line in lines:
                await layer.write(self._data(line))
                await checkpoint

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it; in text, one that `tell` gave, the start or the end."""
        origin = int_of(whence)
        async with self._lock:
            position: int = await self._open_layer().seek(offset, origin)
            return position

    async def tell(self) -> int:
        """Return the position: in bytes, or for text a number that only `seek` can interpret."""
        async with self._lock:
            layer = self._open_layer()
            return await layer.tell() if isinstance(layer, Text) else layer.tell()

    async def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file to `size` bytes, or to its position, and return the size."""
        async with self._lock:
            n: int = await self._open_layer().truncate(size)
            return n

    async def flush(self) -> None:
        """Write the buffer to the file."""
        async with self._lock:
            await self._open_layer().flush()

    async def fsync(self) -> None:
        """Flush, and wait until the file is on the disk."""
        async with self._lock:
            await self._open_layer().flush()
            await self._binary.descriptor.synchronise()

    async def close(self) -> None:
        """Flush and close; an error closes the file, too. Closing again does nothing.

        A cancelled `close` writes and closes all the same, and raises `asyncio.CancelledError` then.
        A pipe, a socket or a terminal may never take the rest of the data: there a cancelled `close`
        leaves the file open, with the rest in its buffer, for another `close`.
        """
        if self._closed and not self._lock.locked():
            return
        cancellation = await self._lock_to_close()
        try:
            if not self._closed:
                await self._close()
        finally:
            self._lock.release()
        if cancellation is not None:
            raise cancellation

    aclose = close

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._closed

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._open_descriptor().fd

    def isatty(self) -> bool:
        """Return whether the file is a terminal."""
        return os.isatty(self._open_descriptor().fd)

    def readable(self) -> bool:
        """Return whether the file can be read."""
        self._open_descriptor()
        return self._binary.readable

    def writable(self) -> bool:
        """Return whether the file can be written."""
        self._open_descriptor()
        return self._binary.writable

    def seekable(self) -> bool:
        """Return whether the file has positions."""
        return self._open_descriptor().seekable()

    @property
    def encoding(self) -> str:
        """The encoding; text files only."""
        return self._text().encoding

    @property
    def errors(self) -> str:
        """The handler of encoding errors; text files only."""
        return self._text().errors

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The kinds of newlines that were read so far; text files only."""
        return self._text().newlines

    @property
    def line_buffering(self) -> bool:
        """Whether every line is written at once; text files only."""
        return self._text().line_buffering

    def __aiter__(self) -> Self:
        self._open_descriptor()
        return self

    async def __anext__(self) -> AnyStr:
        await checkpoint
        # Most lines were read ahead: return them without another await.
        if not self._lock.locked() and not self._closed and self._binary.readable:
            line = self._layer.next_buffered_line()
            if line is not None:
                return cast(AnyStr, line)
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def __aenter__(self) -> Self:
        self._open_descriptor()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed " if self._closed else ""
        return f"<{state}AsyncFile name={self.name!r} mode={self.mode!r}>"

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        try:
            if self._binary.descriptor.owned:
                warnings.warn(f"unclosed file {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            self._closed = True
            self._binary.close_now()

    async def _lock_to_close(self) -> asyncio.CancelledError | None:
        """Wait for the calls before this one; return a cancellation that came meanwhile."""
        cancellation = None
        while True:
            try:
                await self._lock.acquire()
            except asyncio.CancelledError as error:
                if not self._binary.descriptor.seekable():
                    raise
                # On a file with positions the calls before this one end by themselves: wait on.
                cancellation = error
            else:
                return cancellation

    async def _close(self) -> None:
        if not self._binary.descriptor.seekable():
            try:
                await self._layer.flush()
            except Exception:
                self._closed = True
                self._binary.discard()
                # The error says more than a cancellation would.
                with contextlib.suppress(asyncio.CancelledError):
                    await self._binary.close()
                raise
        self._closed = True
        await self._binary.close()

    def _open_layer(self) -> Any:
        if self._closed:
            raise ValueError("I/O operation on closed file.")
        return self._layer

    def _open_binary(self) -> Binary:
        layer = self._open_layer()
        if not isinstance(layer, Binary):
            raise unsupported("a text file does not return bytes; open it in binary mode")
        return layer

    def _open_descriptor(self) -> Descriptor:
        self._open_layer()
        return self._binary.descriptor

    @property
    def _is_text(self) -> bool:
        return self._layer is not self._binary

    def _check_readable(self, size: Any = 0) -> None:
        """Refuse to read from a buffered file that is open for writing only, before other checks.

        Since CPython 3.14 the builtin checks before that whether a size is an integer that fits into
        a C int.
        """
        if self._binary.size and not self._binary.readable and not self._is_text:
            if sys.version_info >= (3, 14):
                int_of(size)
            raise unsupported("read")

    def _data(self, data: Any) -> Any:
        """Return the data to write, or raise if it is of the wrong type for this file."""
        if not self._is_text:
            if self._binary.size and not self._binary.writable:
                raise unsupported("write")
            return bytes_of(data)
        if not isinstance(data, str):
            raise TypeError(f"write() argument must be str, not {type(data).__name__}")
        return data

    def _text(self) -> Text:
        if not isinstance(self._layer, Text):
            raise AttributeError("a file of bytes has no encoding and no newlines")
        return self._layer


class _FileLock(asyncio.Lock):
    """Lock that runs the calls on a file one at a time.

    Entering it is a checkpoint: most calls wait for nothing, and would keep other tasks from running.
    """

    async def __aenter__(self) -> None:
        await checkpoint
        await self.acquire()
