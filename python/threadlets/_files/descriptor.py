"""`Descriptor`: an open file without a buffer; a cancelled call reports the data that it moved."""

from __future__ import annotations

import errno
import os
import select
from asyncio import CancelledError
from typing import Any

from threadlets._core import Result
from threadlets._files.failures import failure, finish, os_error, read_failure, run
from threadlets._syslets.program import Syslet, syslet
from threadlets.atoms import (
    add,
    assign,
    break_if,
    buffer,
    close,
    counter,
    fsync,
    ftruncate,
    growing,
    loop,
    when,
)
from threadlets.atoms import read as read_atom
from threadlets.atoms import write as write_atom

_POOLED_MAX = 256 * 1024
"""The largest read, in bytes, whose memory comes from the buffer pool."""
_NO_LIMIT = 2**62


@syslet
def _read(fd: Any, size: Any) -> Any:
    data = buffer(size)
    n = yield read_atom(fd, data)
    return data[:n]


@syslet
def _read_much(fd: Any, size: Any) -> Any:
    data = growing(size, expected=size)
    yield read_atom(fd, data)
    return data


@syslet
def _read_rest(fd: Any, limit: Any, size: Any) -> Any:
    data = growing(limit, expected=size)
    with loop():
        n = yield read_atom(fd, data)
        break_if(n == 0)
    return data


@syslet
def _read_into(fd: Any, memory: Any) -> Any:
    n = yield read_atom(fd, memory)
    return n


@syslet
def _write(fd: Any, data: Any) -> Any:
    n = yield write_atom(fd, data)
    return n


@syslet
def _truncate(fd: Any, size: Any) -> Any:
    yield ftruncate(fd, size)


@syslet
def _synchronise(fd: Any) -> Any:
    yield fsync(fd)


@syslet
def _close(fd: Any) -> Any:
    yield close(fd)


@syslet
def _write_rest(fd: Any, data: Any, length: Any, closes: Any) -> Any:
    """Write all of the data and, if `closes`, close the descriptor, even if a write fails."""
    n_written, failure = counter(), counter()
    with loop():
        break_if(n_written == length)
        n = yield write_atom(fd, data[n_written:]).unchecked()
        with when(n <= 0):
            yield assign(failure, n)
        break_if(n <= 0)
        yield add(n_written, n)
    with when(closes != 0):
        yield close(fd)
    return n_written, failure


class Descriptor:
    """A file descriptor, used by one task at a time.

    A cancelled read or write is cut short, and so is a write that fails; if it has moved data, it
    raises `Interrupted`.
    """

    def __init__(self, fd: int, *, owned: bool) -> None:
        self.fd = fd
        self.owned = owned
        self._seekable: bool | None = None

    async def read(self, size: int) -> bytes:
        """Read up to `size` bytes at the position; empty at the end."""
        data: bytes
        if size <= _POOLED_MAX:
            data = await self._move(_read, size)
            return data
        before = self.seek(0, os.SEEK_CUR) if self.seekable() else -1
        try:
            data = await self._move(_read_much, size)
        except MemoryError:
            # The data may have been read, and lost for lack of memory for the bytes object.
            if before >= 0:
                self.seek(before, os.SEEK_SET)
            raise
        return data

    async def read_rest(self) -> bytes:
        """Read from the position to the end; the file must be seekable.

        A call that is cancelled or fails leaves the position where it was.
        """
        position = self.seek(0, os.SEEK_CUR)
        size = max(os.fstat(self.fd).st_size - position, 0)
        try:
            data: bytes = await self._move(_read_rest, _NO_LIMIT, size)
        except BaseException as error:
            self.seek(position, os.SEEK_SET)
            if isinstance(error, Interrupted):
                raise error.cause from None
            raise
        return data

    async def read_into(self, memory: memoryview) -> int:
        """Read at the position into `memory`, as much as one call gives; return how many bytes."""
        n: int = await self._move(_read_into, memory)
        return n

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data` at the position; return the number of bytes.

        Raises:
            Interrupted: it failed or was cancelled; some of the data may be written.
        """
        result, cancellation = await run(_write, self.fd, data)
        if result.ok and cancellation is None:
            n: int = result.value
            return n
        n_written = result.value if result.ok else result.progress
        raise Interrupted(n_written, cancellation or failure(result))

    def seek(self, offset: int, whence: int) -> int:
        """Move the position and return it; this system call does not block."""
        return os.lseek(self.fd, offset, whence)

    def seekable(self) -> bool:
        """Return whether the file has a position."""
        if self._seekable is None:
            try:
                self.seek(0, os.SEEK_CUR)
            except OSError:
                self._seekable = False
            else:
                self._seekable = True
        return self._seekable

    async def truncate(self, size: int) -> None:
        """Cut or extend the file to `size` bytes."""
        _raise_for(*await run(_truncate, self.fd, size))

    async def synchronise(self) -> None:
        """Wait until the file is on the disk."""
        _raise_for(*await run(_synchronise, self.fd))

    async def close(self, unwritten: bytes | bytearray = b"") -> None:
        """Write `unwritten`, and close the descriptor if it is owned; both happen even if cancelled.

        A cancellation is raised when both are done; if there was an error, that is raised instead.
        """
        program, args = self._ending(unwritten)
        if program is None:
            return
        result, cancellation = await finish(program, *args)
        _raise_for_ending(result, len(unwritten))
        if cancellation is not None:
            raise cancellation

    def close_now(self, unwritten: bytes | bytearray = b"") -> None:
        """Write and close like `close`, in this thread, for a file that is garbage-collected.

        It does not wait for room in a pipe or socket: this thread may be the one that reads from it.

        Raises:
            OSError: something could not be written; EAGAIN: a pipe or socket was full.
        """
        try:
            if unwritten and not self.seekable():
                unwritten, rest = b"", _write_what_fits(self.fd, unwritten)
                if rest:
                    raise os_error(errno.EAGAIN)
        finally:
            program, args = self._ending(unwritten)
            if program is not None:
                _raise_for_ending(program.run(*args), len(unwritten))

    def _ending(self, unwritten: bytes | bytearray) -> tuple[Syslet[...] | None, tuple[Any, ...]]:
        """Return the program that writes the rest and closes, if needed; it closes only once."""
        closes, self.owned = self.owned, False
        if unwritten:
            return _write_rest, (self.fd, unwritten, len(unwritten), int(closes))
        return (_close, (self.fd,)) if closes else (None, ())

    async def _move(self, program: Syslet[...], *args: Any) -> Any:
        result, cancellation = await run(program, self.fd, *args)
        if cancellation is not None and result.ok:
            raise Interrupted(result.value, cancellation)
        if result.progress:
            # The caller does not get the data of this read: move back, so that it is read again.
            self.seek(-result.progress, os.SEEK_CUR)
        if cancellation is not None:
            raise cancellation
        if result.errno:
            raise read_failure(result)
        return result.value


class Interrupted(Exception):
    """A transfer was cut short by a cancellation or an error: `moved` is the data, or its size."""

    def __init__(self, moved: Any, cause: CancelledError | OSError) -> None:
        super().__init__()
        self.moved = moved
        self.cause = cause


def _raise_for(result: Result, cancellation: CancelledError | None) -> None:
    if cancellation is not None:
        raise cancellation
    if result.errno:
        raise failure(result)


def _raise_for_ending(result: Result, n_bytes: int) -> None:
    if result.errno:
        raise failure(result)
    if n_bytes:
        n_written, error = result.value
        if n_written < n_bytes:
            raise os_error(-error or errno.EIO)


def _write_what_fits(fd: int, data: bytes | bytearray) -> bytes:
    """Write as much as fits without blocking, and return the rest."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    n_written = 0
    while n_written < len(data) and poll.poll(0):
        # POLLOUT is reported only if there is room for PIPE_BUF bytes.
        n_written += os.write(fd, data[n_written : n_written + select.PIPE_BUF])
    return bytes(data[n_written:])
