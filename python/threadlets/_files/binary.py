"""`Binary`: a buffered file of bytes, like `io.BufferedReader`, `BufferedWriter`, `BufferedRandom`.

The buffer holds either bytes that were read ahead or bytes that are to be written, never both. A
cancelled call loses neither.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from threadlets._files.arguments import check_room, size_of
from threadlets._files.descriptor import Descriptor, Interrupted
from threadlets._files.failures import unsupported

_READ_MAX = 64 * 1024 * 1024
"""The most bytes that one read asks for, where it is unknown how many there are."""


class Binary:
    """A buffered file; `size` is the size of the buffer in bytes, 0 for none."""

    def __init__(
        self, descriptor: Descriptor, *, readable: bool, writable: bool, size: int
    ) -> None:
        self.descriptor = descriptor
        self.readable = readable
        self.writable = writable
        self.size = size
        self._ahead = b""
        self._at = 0
        self._filled: list[bytes] | None = None
        self.unwritten = bytearray()
        self.n_taken = 0
        """How many of the bytes given to `write` are in the file or in the buffer."""

    @property
    def n_ahead(self) -> int:
        """Number of bytes that were read ahead and not returned yet."""
        return len(self._ahead) - self._at

    async def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, or up to the end; without a buffer, as many as one system call gives."""
        await self._begin_reading()
        check_room(size)
        if size < -1 and self.size:
            raise ValueError("read length must be non-negative or -1")
        if size < 0:
            return await self._read_rest()
        if not self.size:
            return self._take(size) if self.n_ahead else await self._from_descriptor(size)
        return await self._read_exactly(size)

    async def read1(self, size: int = -1) -> bytes:
        """Read up to `size` bytes with at most one system call; none if bytes were read ahead."""
        await self._begin_reading()
        check_room(size)
        if size < 0:
            size = self.size or 8192
        if self._at == len(self._ahead) and size:
            return await self._from_descriptor(size)
        return self._take(size)

    async def peek(self) -> bytes:
        """Return the bytes read ahead, at least one unless the file is at its end; do not move."""
        await self._begin_reading()
        if self._at == len(self._ahead):
            await self._fill(self.size)
        return self._ahead[self._at :]

    async def readinto(self, memory: memoryview, *, once: bool = False) -> int:
        """Read into `memory` until it is full; `once`: until one call has given something.

        While the rest of `memory` is at least as large as the buffer, reads go there without a copy.
        """
        await self._begin_reading()
        once = once or not self.size
        n_filled = self._take_into(memory)
        try:
            while n_filled < len(memory) and not (once and n_filled):
                rest = memory[n_filled:]
                if len(rest) >= self.size:
                    n_read = await self.descriptor.read_into(rest)
                else:
                    await self._fill(self.size)
                    n_read = self._take_into(rest)
                n_filled += n_read
                if not n_read:
                    break
        except BaseException as error:
            if isinstance(error, Interrupted):
                n_filled += error.moved
            self._ahead = bytes(memory[:n_filled]) + self._ahead[self._at :]
            self._at = 0
            if isinstance(error, Interrupted):
                raise error.cause from None
            raise
        return n_filled

    async def readline(self, limit: int = -1) -> bytes:
        """Read up to and including the next newline, at most `limit` bytes."""
        await self._begin_reading()
        n_searched = 0
        while True:
            end = self._ahead.find(b"\n", self._at + n_searched) + 1
            n_searched = self.n_ahead
            if 0 <= limit <= n_searched and not 0 < end <= self._at + limit:
                return self._take(limit)
            if end:
                return self._take(end - self._at)
            # Read a long line in growing parts, so that it is not copied too often.
            if not await self._fill(max(self.size, n_searched) if self.size else 1):
                return self._take(n_searched)

    @contextlib.contextmanager
    def restoring_on_error(self) -> Iterator[None]:
        """Put all bytes that the block reads back into the buffer if the block raises."""
        before = self._ahead[self._at :]
        self._filled = []
        try:
            yield
        except BaseException:
            self._ahead, self._at = b"".join([before, *self._filled]), 0
            raise
        finally:
            self._filled = None

    def next_buffered_line(self) -> bytes | None:
        """Return the next line if all of it was read ahead, else None."""
        end = self._ahead.find(b"\n", self._at) + 1
        if not end:
            return None
        line = self._ahead[self._at : end]
        self._at = end
        return line

    async def write(self, data: bytes | memoryview) -> int:
        """Write `data`, or keep it in the buffer; return its size in bytes."""
        if not self.writable:
            raise unsupported("not writable")
        view = memoryview(data)
        self._drop_ahead()
        if not self.size:
            return await self._write_once(view)
        if len(self.unwritten) + len(view) > self.size:
            await self._write_out()
        n_written = await self._write_through(view) if len(view) >= self.size else 0
        self.unwritten += view[n_written:]
        self.n_taken += len(view) - n_written
        return len(view)

    async def flush(self) -> None:
        """Write the buffer; a writable file also drops bytes read ahead, and moves back over them."""
        await self._write_out()
        if self.writable:
            self._drop_ahead()

    async def close(self) -> None:
        """Write the buffer and close, even if cancelled; see `Descriptor.close`."""
        await self.descriptor.close(self._take_unwritten())

    def close_now(self) -> None:
        """Write the buffer and close, in this thread; see `Descriptor.close_now`."""
        self.descriptor.close_now(self._take_unwritten())

    def discard(self) -> None:
        """Drop the bytes that are to be written."""
        self.unwritten = bytearray()

    def _take_unwritten(self) -> bytearray:
        """Empty the buffer, and return the bytes to write; the position becomes the reader's."""
        unwritten = self.unwritten
        self.discard()
        if self.writable:
            self._drop_ahead()
        return unwritten

    def tell(self) -> int:
        """Return the position of the next byte to be read or written."""
        position = self.descriptor.seek(0, os.SEEK_CUR)
        return position - self.n_ahead + len(self.unwritten)

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        offset = size_of(offset, error=ValueError if self.size else OverflowError)
        if self.size and whence not in (
            os.SEEK_SET,
            os.SEEK_CUR,
            os.SEEK_END,
            os.SEEK_DATA,
            os.SEEK_HOLE,
        ):
            raise ValueError(f"whence value {whence} unsupported")
        if not self.descriptor.seekable():
            raise unsupported("File or stream is not seekable.")
        await self._write_out()
        if whence == os.SEEK_CUR:
            offset -= self.n_ahead
        position = self.descriptor.seek(offset, whence)
        self._ahead, self._at = b"", 0
        return position

    async def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file to `size` bytes, or to its position; return the size."""
        if not self.writable:
            raise unsupported("truncate")
        await self.flush()
        size = self.tell() if size is None else size_of(size)
        await self.descriptor.truncate(size)
        return size

    async def _begin_reading(self) -> None:
        if not self.readable:
            raise unsupported("not readable")
        if self.unwritten:
            await self._write_out()

    async def _read_rest(self) -> bytes:
        if self.descriptor.seekable():
            rest = await self.descriptor.read_rest()
            return self._take(self.n_ahead) + rest if self.n_ahead else rest
        while await self._fill(max(self.size, self.n_ahead, 4096)):
            pass
        return self._take(self.n_ahead)

    async def _read_exactly(self, size: int) -> bytes:
        if size <= self.n_ahead:
            return self._take(size)
        parts = [self._take(self.n_ahead)]
        n_missing = size - len(parts[0])
        try:
            while n_missing:
                if n_missing >= self.size:
                    part = await self._from_descriptor(min(n_missing, _READ_MAX))
                else:
                    await self._fill(self.size)
                    part = self._take(n_missing)
                if not part:
                    break
                parts.append(part)
                n_missing -= len(part)
            return parts[1] if len(parts) == 2 and not parts[0] else b"".join(parts)
        except MemoryError:
            n_read = sum(map(len, parts)) + self.n_ahead
            self._ahead, self._at = b"", 0
            self._go_back(n_read)
            raise
        except BaseException:
            self._ahead = b"".join([*parts, self._ahead[self._at :]])
            self._at = 0
            raise

    def _take(self, size: int) -> bytes:
        start = self._at
        part = self._ahead[start : start + size]
        self._at = start + len(part)
        return part

    def _take_into(self, memory: memoryview) -> int:
        part = self._take(len(memory))
        memory[: len(part)] = part
        return len(part)

    async def _from_descriptor(self, size: int) -> bytes:
        """Read without the buffer, which must be empty."""
        try:
            return await self.descriptor.read(size)
        except Interrupted as error:
            self._ahead, self._at = error.moved, 0
            raise error.cause from None

    async def _fill(self, size: int) -> int:
        """Read up to `size` bytes into the buffer; return how many."""
        rest = self._ahead[self._at :]
        try:
            data = await self.descriptor.read(size)
        except Interrupted as error:
            self._ahead, self._at = rest + error.moved, 0
            if self._filled is not None:
                self._filled.append(error.moved)
            raise error.cause from None
        try:
            self._ahead, self._at = rest + data if rest else data, 0
            if self._filled is not None:
                self._filled.append(data)
        except MemoryError:
            self._go_back(len(data))
            raise
        return len(data)

    def _go_back(self, n_bytes: int) -> None:
        """Move back over bytes for which there was no memory, so that they are read again."""
        if self.descriptor.seekable():
            self.descriptor.seek(-n_bytes, os.SEEK_CUR)

    async def _write_out(self) -> None:
        while self.unwritten:
            # A view would keep the buffer from shrinking; a copy is cheap beside the system call.
            data = bytes(self.unwritten)
            try:
                n_written = await self.descriptor.write(data)
            except Interrupted as error:
                del self.unwritten[: error.moved]
                raise error.cause from None
            del self.unwritten[:n_written]

    async def _write_once(self, view: memoryview) -> int:
        try:
            return await self.descriptor.write(view)
        except Interrupted as error:
            if error.moved and isinstance(error.cause, OSError):
                # Return how much was written, as write(2) does: the next call raises the error.
                n_written: int = error.moved
                return n_written
            raise error.cause from None

    async def _write_through(self, view: memoryview) -> int:
        """Write `view` and return how many bytes were written.

        After an error, a rest that fits into the buffer goes there, as with `io.BufferedWriter`; then
        the next flush raises the error.
        """
        n_written = 0
        while n_written < len(view):
            try:
                n_moved = await self.descriptor.write(view[n_written:])
                n_written += n_moved
                self.n_taken += n_moved
            except Interrupted as error:
                n_written += error.moved
                self.n_taken += error.moved
                if isinstance(error.cause, OSError) and len(view) - n_written <= self.size:
                    break
                raise error.cause from None
        return n_written

    def _drop_ahead(self) -> None:
        """Drop the bytes read ahead, and move the position back to the reader's."""
        if self.n_ahead:
            if not self.descriptor.seekable():
                return
            self.descriptor.seek(-self.n_ahead, os.SEEK_CUR)
        self._ahead, self._at = b"", 0
