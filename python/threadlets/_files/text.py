"""`Text`: a text file over a `Binary`, like `io.TextIOWrapper`."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from threadlets._files.binary import Binary
from threadlets._files.failures import os_error, unsupported

_CHUNK = 64 * 1024
"""How many bytes are decoded at a time."""
_CHUNK_OF_WRITABLE = 8192
"""The same for a file that can be written, too: text that is written after a read goes behind the
chunk that was read, so this must be the builtin's size."""

_READ_MAX = 64 * 1024 * 1024
"""The most bytes that are decoded at a time."""


class _Cookie(NamedTuple):
    """The position that `tell` packs into an integer: where to start decoding, and how far to go."""

    position: int
    flags: int = 0
    n_bytes: int = 0
    n_chars: int = 0
    is_final: int = 0

    def packed(self) -> int:
        return sum(value << (64 * index) for index, value in enumerate(self))

    @classmethod
    def unpacked(cls, cookie: int) -> _Cookie:
        return cls(*(cookie >> (64 * index) & (2**64 - 1) for index in range(5)))


class Text:
    """A text file. Text that was decoded and not returned yet is kept with the bytes it came from."""

    def __init__(
        self,
        binary: Binary,
        encoding: str | None,
        errors: str | None,
        newline: str | None,
        *,
        line_buffering: bool,
    ) -> None:
        # io itself checks the arguments, and refuses wrong ones with its own messages.
        model = io.TextIOWrapper(io.BytesIO(), encoding, errors, newline)
        self.binary = binary
        self.encoding = model.encoding
        self.errors = str(model.errors)
        self.line_buffering = line_buffering
        self._newline = newline
        self._chunk = _CHUNK_OF_WRITABLE if binary.writable else _CHUNK
        self._decoder: Any = codecs.getincrementaldecoder(self.encoding)(self.errors)
        if not newline:
            self._decoder = io.IncrementalNewlineDecoder(self._decoder, translate=newline is None)
        self._encoder: Any = codecs.getincrementalencoder(self.encoding)(self.errors)
        if binary.writable and binary.descriptor.seekable() and binary.tell():
            self._encoder.setstate(0)
        self._bytes_per_char = 0.0
        self._decoded: list[tuple[bytes, str]] | None = None
        self._chars = ""
        self._at = 0
        self._flags_before = 0
        self._bytes_before: bytes | None = None
        """The bytes from which `_chars` was decoded, from the decoder's state `_flags_before` on."""

    @property
    def newlines(self) -> str | tuple[str, ...] | None:
        """The kinds of newlines that were translated so far."""
        found: str | tuple[str, ...] | None = getattr(self._decoder, "newlines", None)
        return found

    async def read(self, size: int = -1) -> str:
        """Read `size` characters, or up to the end."""
        self._check_readable()
        if size < 0:
            rest = await self.binary.read()
            text: str = self._chars[self._at :] + self._decoder.decode(rest, final=True)
            self._forget()
            return text
        while (n_missing := size - (len(self._chars) - self._at)) > 0:
            if not await self._read_on(n_missing):
                break
        return self._take(self._at + size)

    async def readline(self, limit: int = -1) -> str:
        """Read up to and including the next newline, at most `limit` characters."""
        self._check_readable()
        n_searched = 0
        while True:
            end = self._line_end(self._at + n_searched)
            n_chars = len(self._chars) - self._at
            if 0 <= limit <= n_chars and not 0 <= end <= self._at + limit:
                return self._take(self._at + limit)
            if end >= 0:
                return self._take(end)
            # The last character may be the first half of a newline of two.
            n_searched = max(n_chars - 1, 0)
            if not await self._read_on():
                return self._take(len(self._chars))

    @contextlib.contextmanager
    def restoring_on_error(self) -> Iterator[None]:
        """Keep all text that the block reads for the next call if the block raises."""
        chars, at, known = self._chars, self._at, self._bytes_before
        held, flags = self._decoder.getstate() if known is None else (known, self._flags_before)
        self._decoded = []
        try:
            yield
        except BaseException:
            if known is not None or self._decoded:
                self._chars = "".join([chars, *(more for _, more in self._decoded)])
                self._bytes_before = b"".join([held, *(data for data, _ in self._decoded)])
                self._at, self._flags_before = at, flags
            raise
        finally:
            self._decoded = None

    def next_buffered_line(self) -> str | None:
        """Return the next line if all of it is decoded, else None."""
        end = self._line_end(self._at)
        return None if end < 0 else self._take(end)

    async def write(self, text: str) -> int:
        """Encode `text` and write it, or keep it in the buffer; return the number of characters."""
        if not self.binary.writable:
            raise unsupported("not writable")
        has_newline = "\n" in text
        data = text
        if has_newline and self._newline in ("\r", "\r\n"):
            data = text.replace("\n", self._newline)
        before, n_taken = self._encoder.getstate(), self.binary.n_taken
        encoded = self._encoder.encode(data)
        try:
            await self.binary.write(encoded)
        except BaseException:
            if self.binary.n_taken == n_taken:
                # Nothing of the text was taken, so it must not affect how the next one is encoded.
                self._encoder.setstate(before)
            else:
                self._start_reading_anew()
            raise
        self._start_reading_anew()
        if self.line_buffering and (has_newline or "\r" in text):
            await self.binary.flush()
        return len(text)

    async def flush(self) -> None:
        """Write the buffer."""
        await self.binary.flush()

    async def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file to `size` bytes, or to the position of the `Binary`."""
        await self.flush()
        return await self.binary.truncate(size)

    async def tell(self) -> int:
        """Return the position as a number that only `seek` can interpret."""
        if not self.binary.descriptor.seekable():
            raise unsupported("underlying stream is not seekable")
        await self.flush()
        position = self.binary.tell()
        if self._bytes_before is None:
            return position
        position -= len(self._bytes_before)
        return self._cookie(position, self._bytes_before).packed()

    async def seek(self, cookie: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position that `tell` returned, or to the beginning or the end, and return it."""
        binary = self.binary
        if not binary.descriptor.seekable():
            raise unsupported("underlying stream is not seekable")
        if whence == os.SEEK_CUR:
            if cookie:
                raise unsupported("can't do nonzero cur-relative seeks")
            cookie = await self.tell()
        elif whence == os.SEEK_END:
            if cookie:
                raise unsupported("can't do nonzero end-relative seeks")
            await self.flush()
            position = await binary.seek(0, os.SEEK_END)
            self._restart(position)
            return position
        elif whence != os.SEEK_SET:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if cookie < 0:
            raise ValueError(f"negative seek position {cookie}")
        await self.flush()
        target = _Cookie.unpacked(cookie)
        if target.position > sys.maxsize:
            raise os_error(errno.EINVAL)
        await binary.seek(target.position)
        self._restart(cookie)
        if cookie and binary.readable:
            self._decoder.setstate((b"", target.flags))
            self._flags_before, self._bytes_before = target.flags, b""
        if target.n_chars and binary.readable:
            data = await binary.read(target.n_bytes)
            self._chars = self._decoder.decode(data, bool(target.is_final))
            self._bytes_before = data
            if len(self._chars) < target.n_chars:
                raise OSError("can't restore logical file position")
            self._at = target.n_chars
        return cookie

    def _check_readable(self) -> None:
        if not self.binary.readable:
            raise unsupported("not readable")

    def _start_reading_anew(self) -> None:
        """Drop the decoded text after a write: the position is behind it."""
        self._forget()
        self._decoder.reset()

    async def _read_on(self, n_wanted: int = 0) -> bool:
        """Decode some more bytes; return whether there were any, or any more characters."""
        if self.binary.writable:
            n_bytes = min(int(max(self._bytes_per_char, 1.0) * n_wanted), _READ_MAX)
        else:
            # Read a long line in growing parts, so that it is not copied too often.
            n_bytes = len(self._chars) - self._at
        data = await self.binary.read1(max(self._chunk, n_bytes))
        if self._at == len(self._chars):
            self._forget()
        if self._bytes_before is None:
            held, self._flags_before = self._decoder.getstate()
            self._bytes_before = held
        more = self._decoder.decode(data, not data)
        self._bytes_per_char = len(data) / len(more) if more else 0.0
        if self._decoded is not None:
            self._decoded.append((data, more))
        self._chars += more
        self._bytes_before += data
        return bool(data or more)

    def _line_end(self, start: int) -> int:
        """Return the end of the line that `start` is in, after its newline; -1: not decoded yet."""
        chars = self._chars
        if self._newline == "":
            feed, carriage = chars.find("\n", start), chars.find("\r", start)
            if carriage >= 0 and (feed < 0 or carriage < feed):
                return carriage + 2 if feed == carriage + 1 else carriage + 1
            return feed + 1 if feed >= 0 else -1
        newline = self._newline or "\n"
        found = chars.find(newline, start)
        return found + len(newline) if found >= 0 else -1

    def _take(self, end: int) -> str:
        text = self._chars[self._at : end]
        self._at += len(text)
        return text

    def _forget(self) -> None:
        self._chars, self._at, self._bytes_before = "", 0, None

    def _restart(self, position: int) -> None:
        """Reset decoder and encoder for a position: only a file's beginning has a byte order mark."""
        self._forget()
        self._decoder.reset()
        if position:
            self._encoder.setstate(0)
        else:
            self._encoder.reset()

    def _cookie(self, position: int, data: bytes) -> _Cookie:
        """Return the position of the next character; `position` is that of the first byte of `data`.

        A binary search over the prefixes of `data`: the longer one is, the more characters it has.
        """
        flags_before, n_chars = self._flags_before, self._at
        if not n_chars:
            return _Cookie(position, flags_before)
        saved = self._decoder.getstate()

        def decoded(n_bytes: int) -> tuple[int, bytes, int]:
            self._decoder.setstate((b"", flags_before))
            n = len(self._decoder.decode(data[:n_bytes]))
            held, flags = self._decoder.getstate()
            return n, held, flags

        try:
            low, high = 0, len(data)
            while low < high:
                middle = (low + high) // 2
                if decoded(middle)[0] >= n_chars:
                    high = middle
                else:
                    low = middle + 1
            n, held, flags = decoded(low)
            if n == n_chars and not held:
                return _Cookie(position + low, flags)
            # The character is one of several that are decoded at once: start before them, and skip.
            start, flags_there, n_there = 0, flags_before, 0
            for n_bytes in range(low - 1, max(low - 16, 0), -1):
                n_here, held, flags = decoded(n_bytes)
                if not held:
                    start, flags_there, n_there = n_bytes, flags, n_here
                    break
            is_final = n < n_chars
            return _Cookie(
                position + start, flags_there, low - start, n_chars - n_there, int(is_final)
            )
        finally:
            self._decoder.setstate(saved)
