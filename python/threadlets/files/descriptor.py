"""`Descriptor`: an open file without buffers; what a call reads or writes is known even if cancelled."""

from __future__ import annotations

import errno
import os
from asyncio import CancelledError
from typing import Any

from threadlets import _core
from threadlets._core import Result
from threadlets.atoms import break_if, buffer, close, fsync, ftruncate, growing, loop
from threadlets.atoms import read as read_atom
from threadlets.atoms import write as write_atom
from threadlets.files.failures import failure, read_failure, run
from threadlets.syslets import Syslet, syslet

_POOLED_MAX = 256 * 1024
"""Up to here, in bytes, memory for a read comes from the pool."""
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


class Descriptor:
    """A file descriptor and what one may do with it. It is used by one task at a time.

    A read or write that is cancelled is cut short, and so is a write that fails; if it has done
    something, it raises `Interrupted`.
    """

    def __init__(self, fd: int, *, owned: bool) -> None:
        self.fd = fd
        self.owned = owned
        self._seekable: bool | None = None

    async def read(self, size: int) -> bytes:
        """Read up to `size` bytes at the position; none at the end."""
        data: bytes
        if size <= _POOLED_MAX:
            data = await self._move(_read, size)
            return data
        before = self.seek(0, os.SEEK_CUR) if self.seekable() else -1
        try:
            data = await self._move(_read_much, size)
        except MemoryError:
            # It may have been read, and lost for want of memory for the bytes.
            if before >= 0:
                self.seek(before, os.SEEK_SET)
            raise
        return data

    async def read_rest(self) -> bytes:
        """Read from the position to the end; the file must be seekable.

        One that is cancelled leaves the position where it was.
        """
        position = self.seek(0, os.SEEK_CUR)
        size = max(os.fstat(self.fd).st_size - position, 0)
        try:
            data: bytes = await self._move(_read_rest, _NO_LIMIT, size)
        except BaseException:
            self.seek(position, os.SEEK_SET)
            raise
        return data

    async def read_into(self, memory: memoryview) -> int:
        """Read at the position into `memory`, as much as comes at once; return how much."""
        n: int = await self._move(_read_into, memory)
        return n

    async def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write at the position; return how much, which is all.

        Raises:
            Interrupted: it failed or was cancelled, perhaps with some of it written.
        """
        result, cancellation = await run(_write, self.fd, data)
        if result.ok and cancellation is None:
            n: int = result.value
            return n
        n_written = result.value if result.ok else result.progress
        raise Interrupted(n_written, cancellation or failure(result))

    def seek(self, offset: int, whence: int) -> int:
        """Move the position and return it; no kernel waits for that."""
        return os.lseek(self.fd, offset, whence)

    def seekable(self) -> bool:
        """Say whether there is a position."""
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

    async def close(self) -> None:
        """Close the descriptor, if it is ours."""
        if self.owned:
            self.owned = False
            result, cancellation = await run(_close, self.fd, cleans_up=True)
            if result.errno == errno.ECANCELED:
                # It had not begun; now it is done, whatever comes.
                await _core.clean_up(_close_quietly, self.fd)
            _raise_for(result, cancellation)

    def close_now(self, unwritten: bytes | bytearray) -> None:
        """Write what is left and close the descriptor, here, for a file that was forgotten."""
        if self.owned:
            self.owned = False
            try:
                if unwritten:
                    _write.run(self.fd, unwritten)
            finally:
                _close.run(self.fd)

    async def _move(self, program: Syslet[...], *args: Any) -> Any:
        result, cancellation = await run(program, self.fd, *args)
        if cancellation is not None and result.ok:
            raise Interrupted(result.value, cancellation)
        if result.progress:
            # What a file gave to a read that nobody hears of is read again.
            self.seek(-result.progress, os.SEEK_CUR)
        if cancellation is not None:
            raise cancellation
        if result.errno:
            raise read_failure(result)
        return result.value


class Interrupted(Exception):
    """A transfer that a cancellation or an error has cut short: `moved` is what it did, or how much."""

    def __init__(self, moved: Any, cause: CancelledError | OSError) -> None:
        super().__init__()
        self.moved = moved
        self.cause = cause


def _raise_for(result: Result, cancellation: CancelledError | None) -> None:
    if cancellation is not None:
        raise cancellation
    if result.errno:
        raise failure(result)


def _close_quietly(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass
