"""`AsyncFile`: an open file, as `open` gives it; one call at a time, whoever makes it."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Any, AnyStr, Generic, Self, cast

from threadlets._core import checkpoint
from threadlets.files.binary import Binary
from threadlets.files.descriptor import Descriptor
from threadlets.files.failures import unsupported
from threadlets.files.text import Text


class AsyncFile(Generic[AnyStr]):
    """A file whose methods are those of `io`, to be awaited: of bytes, or of text (str).

    Several tasks may use one file: their calls take turns, in the order in which they were made.
    `async with file:` closes it at the end. `async for line in file:` gives its lines.

    A call that is cancelled is cut short. What it has read already, the next one reads again; of
    what is in the buffer to be written, nothing is lost. Of the data that a cancelled `write` was
    given, a part may be in the file. What a call had written when it failed, on a full disk or to a
    pipe that nobody reads any more, is not written again: the next flush goes on with the rest.

    Raises:
        OSError: the kernel refuses something, from any method.
        io.UnsupportedOperation: the file is not open for reading, not open for writing, or has no
            positions.
        ValueError: the file is closed, from any method but `close`.
    """

    def __init__(self, layer: Binary | Text, name: Any, mode: str) -> None:
        self._layer: Any = layer
        self._binary = layer if isinstance(layer, Binary) else layer.binary
        self._turn = _Turn()
        self._closed = False
        self.name = name
        """What `open` was given: a path, or a descriptor."""
        self.mode = mode

    async def read(self, size: int | None = -1) -> AnyStr:
        """Read `size` bytes or characters, fewer only at the end; None or -1: all that there is.

        A file without a buffer gives what one call of the kernel's gives.
        """
        async with self._turn:
            return cast(AnyStr, await self._open_layer().read(size))

    async def read1(self, size: int = -1) -> bytes:
        """Read up to `size` bytes with at most one call of the kernel's; not for text."""
        async with self._turn:
            return await self._open_binary().read1(size)

    async def peek(self, size: int = 0) -> bytes:
        """Return some of the bytes that come next, without moving on; not for text."""
        async with self._turn:
            return await self._open_binary().peek()

    async def readinto(self, buffer: Any) -> int:
        """Read into writable memory until it is full, and return the number of bytes; not for text.

        It is fewer at the end only. Bytes that are not in the file's buffer yet are read right
        into the memory; it must not be resized, and better not be looked at, before that is over.
        """
        async with self._turn:
            return await self._open_binary().readinto(_writable(buffer))

    async def readinto1(self, buffer: Any) -> int:
        """Read into writable memory with at most one call of the kernel's; not for text."""
        async with self._turn:
            return await self._open_binary().readinto(_writable(buffer), once=True)

    async def readline(self, size: int | None = -1) -> AnyStr:
        """Read a line with its newline, `size` bytes or characters of it at most; empty at the end."""
        async with self._turn:
            return cast(AnyStr, await self._open_layer().readline(size))

    async def readlines(self, hint: int | None = -1) -> list[AnyStr]:
        """Read lines up to the end, or until they have more than `hint` bytes or characters."""
        async with self._turn:
            layer = self._open_layer()
            lines: list[AnyStr] = []
            n_read = 0
            while line := await layer.readline():
                lines.append(line)
                n_read += len(line)
                if hint is not None and 0 < hint < n_read:
                    break
            return lines

    async def write(self, data: Any) -> int:
        """Write bytes or text, or keep them in the buffer; return how many bytes or characters."""
        async with self._turn:
            n: int = await self._open_layer().write(data)
            return n

    async def writelines(self, lines: Iterable[Any]) -> None:
        """Write one after another; nothing is put between them."""
        async with self._turn:
            layer = self._open_layer()
            for line in lines:
                await layer.write(line)
                await checkpoint

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position and return it; in text, to one that `tell` gave, the start or the end."""
        async with self._turn:
            position: int = await self._open_layer().seek(offset, whence)
            return position

    async def tell(self) -> int:
        """Return the position: in bytes, or for text a number that means something to `seek` alone."""
        async with self._turn:
            layer = self._open_layer()
            return await layer.tell() if isinstance(layer, Text) else layer.tell()

    async def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file to `size` bytes, or to its position, and return the size."""
        async with self._turn:
            n: int = await self._open_layer().truncate(size)
            return n

    async def flush(self) -> None:
        """Give the kernel what is in the buffer."""
        async with self._turn:
            await self._open_layer().flush()

    async def fsync(self) -> None:
        """Flush, and wait until the file is on the disk."""
        async with self._turn:
            await self._open_layer().flush()
            await self._binary.descriptor.synchronise()

    async def close(self) -> None:
        """Flush and close; the file is closed whatever is raised. Closing again does nothing."""
        if self._closed:
            return
        await self._turn.acquire()
        try:
            if self._closed:
                return
            try:
                await self._layer.flush()
            finally:
                self._closed = True
                await self._binary.descriptor.close()
        finally:
            self._turn.release()

    aclose = close

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._closed

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._open_descriptor().fd

    def isatty(self) -> bool:
        """Say whether the file is a terminal."""
        return os.isatty(self._open_descriptor().fd)

    def readable(self) -> bool:
        """Say whether the file can be read."""
        self._open_descriptor()
        return self._binary.readable

    def writable(self) -> bool:
        """Say whether the file can be written."""
        self._open_descriptor()
        return self._binary.writable

    def seekable(self) -> bool:
        """Say whether the file has positions."""
        return self._open_descriptor().seekable()

    @property
    def encoding(self) -> str:
        """The encoding; text has one."""
        return self._text().encoding

    @property
    def errors(self) -> str:
        """What happens to what cannot be decoded or encoded; for text."""
        return self._text().errors

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The kinds of newlines that were read so far; for text."""
        return self._text().newlines

    @property
    def line_buffering(self) -> bool:
        """Whether every line is written at once; for text."""
        return self._text().line_buffering

    def __aiter__(self) -> Self:
        self._open_descriptor()
        return self

    async def __anext__(self) -> AnyStr:
        await checkpoint
        # Most lines are there already: nothing more is awaited for them.
        if not self._turn.locked() and not self._closed and self._binary.readable:
            line = self._layer.line_at_hand()
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
        if getattr(self, "_closed", True) or not self._binary.descriptor.owned:
            return
        warnings.warn(f"unclosed file {self!r}", ResourceWarning, stacklevel=2, source=self)
        self._closed = True
        self._binary.descriptor.close_now(self._binary.unwritten)

    def _open_layer(self) -> Any:
        if self._closed:
            raise ValueError("I/O operation on closed file.")
        return self._layer

    def _open_binary(self) -> Binary:
        layer = self._open_layer()
        if not isinstance(layer, Binary):
            raise unsupported("a file of text has no bytes to give; open it in binary mode")
        return layer

    def _open_descriptor(self) -> Descriptor:
        self._open_layer()
        return self._binary.descriptor

    def _text(self) -> Text:
        if not isinstance(self._layer, Text):
            raise AttributeError("a file of bytes has no encoding and no newlines")
        return self._layer


class _Turn(asyncio.Lock):
    """Whose call it is. Other tasks run before a call now and then: most calls need not wait for anything."""

    async def __aenter__(self) -> None:
        await checkpoint
        await self.acquire()


def _writable(buffer: Any) -> memoryview:
    view = memoryview(buffer)
    if view.readonly:
        raise TypeError(
            f"readinto() argument must be read-write bytes-like object, not {type(buffer).__name__}"
        )
    return view.cast("B")
