"""asyncio's streams on socket transports: readers and writers that do their work natively.

A reader or writer stays the object that asyncio has made, and gets a class derived from asyncio's: what this
module does not override is asyncio's code, of whichever version. It knows nothing of transports.
"""

from __future__ import annotations

import asyncio
from asyncio.exceptions import IncompleteReadError
from asyncio.streams import StreamReader, StreamReaderProtocol, StreamWriter
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from threadlets import _core

if TYPE_CHECKING:
    from collections.abc import Callable

#: The methods of asyncio's that are not called any more. A program that replaces one of them has its
#: replacement called.
_replaced_of_readers = attrgetter(
    "__setattr__",
    "_maybe_resume_transport",
    "_wait_for_data",
    "_wakeup_waiter",
    "exception",
    "feed_data",
    "read",
    "readexactly",
    "readline",
    "readuntil",
)
_REPLACED = _replaced_of_readers(StreamReader)
_DATA_RECEIVED = StreamReaderProtocol.data_received
_DRAIN, _DRAIN_HELPER = StreamWriter.drain, StreamReaderProtocol._drain_helper
#: A limit above this one is left to asyncio.
_LIMIT_MAX = 2**60


def _kept_natively(name: str) -> Any:
    """Make the property of an attribute that asyncio's code uses, and the native half keeps."""
    path = f"_read_buffer.{name}"

    def put(reader: _Reader, value: Any) -> None:
        setattr(reader._read_buffer, name, value)

    return property(attrgetter(path), put)


class _Reader(StreamReader):
    """A stream reader whose received bytes are in a native buffer, which its transport fills."""

    _read_buffer: _core.ReadBuffer

    _buffer = _kept_natively("buffer")
    _eof = _kept_natively("eof")
    _exception = _kept_natively("exception")
    _limit = _kept_natively("limit")
    _paused = _kept_natively("paused")
    _transport = _kept_natively("transport")
    _waiter = _kept_natively("waiter")

    async def read(self, n: int = -1) -> bytes:
        """Read up to `n` bytes, as soon as there are some; without `n`, until the end."""
        if n <= 0:
            return await super().read(n)
        buffer = self._read_buffer
        got = buffer.read(n, False)
        while type(got) is not bytes:
            try:
                await got
            except BaseException:
                buffer.waiter = None
                raise
            got = buffer.read(n, True)
        return got

    async def readexactly(self, n: int) -> bytes:
        """Read exactly `n` bytes."""
        if n <= 0:
            return await super().readexactly(n)
        buffer = self._read_buffer
        got = buffer.read_exactly(n, False)
        while type(got) is not bytes:
            if got is None:
                rest = bytes(buffer.buffer)
                buffer.buffer.clear()
                raise IncompleteReadError(rest, n)
            try:
                await got
            except BaseException:
                buffer.waiter = None
                raise
            got = buffer.read_exactly(n, True)
        return got

    async def readline(self) -> bytes:
        """Read a line, with its newline; at the end what is left."""
        buffer = self._read_buffer
        got = buffer.read_until(b"\n", 0, False)
        while type(got) is not bytes:
            if got is None:
                return await super().readline()
            offset = len(buffer)
            try:
                await got
            except BaseException:
                buffer.waiter = None
                raise
            got = buffer.read_until(b"\n", offset, True)
        return got

    async def readuntil(self, separator: Any = b"\n") -> bytes:
        """Read up to and with the separator."""
        if type(separator) is not bytes or not separator:
            return await super().readuntil(separator)
        buffer = self._read_buffer
        got = buffer.read_until(separator, 0, False)
        while type(got) is not bytes:
            if got is None:
                # It raises the error, and knows what is left and what is lost.
                return await super().readuntil(separator)
            # What was searched, but the beginning of a separator may be at its end.
            offset = max(0, len(buffer) + 1 - len(separator))
            try:
                await got
            except BaseException:
                buffer.waiter = None
                raise
            got = buffer.read_until(separator, offset, True)
        return got


class _Writer(StreamWriter):
    """A stream writer that waits for nothing while its transport has room."""

    async def drain(self) -> None:
        """Wait until the transport has room for more."""
        if self._protocol._paused or not self._reader._read_buffer.has_room():
            await super().drain()


#: Their repr shows the name of the class, which is asyncio's here.
_Reader.__name__ = "StreamReader"
_Writer.__name__ = "StreamWriter"


def read_buffer_of(protocol: asyncio.BaseProtocol, loop: Any) -> _core.ReadBuffer | None:
    """Return the buffer that gets what a transport receives in the place of its protocol.

    None: the protocol is not that of a stream, or it, its reader or asyncio's classes were changed.
    """
    if type(protocol) is not StreamReaderProtocol:
        return None
    # Not by `vars`, which would make a dictionary that the object has not needed so far.
    if getattr(protocol.data_received, "__func__", None) is not _DATA_RECEIVED:
        return None
    if loop is None or type(loop).create_future is not _core.Dispatcher.create_future:
        return None  # The connection is lost; or the program makes the futures that readers await.
    reader = protocol._stream_reader
    if type(reader) is _Reader:
        return reader._read_buffer
    if type(reader) is not StreamReader or not _is_unchanged():
        return None
    return _make_native(protocol, reader, loop)


def _is_unchanged() -> bool:
    return (
        _replaced_of_readers(StreamReader) == _REPLACED
        and StreamReaderProtocol._drain_helper is _DRAIN_HELPER
        and StreamWriter.drain is _DRAIN
    )


def _make_native(protocol: Any, reader: Any, loop: Any) -> _core.ReadBuffer | None:
    """Give a reader that has received nothing yet, and the writer to come, their native classes."""
    limit = reader._limit
    is_fresh = not (reader._buffer or reader._eof or reader._waiter or reader._exception)
    if reader._loop is not loop or not is_fresh or type(limit) is not int or limit > _LIMIT_MAX:
        return None
    buffer = _core.ReadBuffer(loop, reader._buffer, limit, reader._transport)
    # The attributes that are kept natively stay behind in the object, where nobody finds them: properties go before.
    reader._read_buffer = buffer
    reader.__class__ = _Reader
    if protocol._client_connected_cb is not None:
        protocol._client_connected_cb = partial(_client_connected, protocol._client_connected_cb)
    return buffer


def _client_connected(callback: Callable[..., Any], reader: Any, writer: Any) -> Any:
    """Call the program's `client_connected_cb`, with a writer of ours."""
    writer._protocol._client_connected_cb = callback
    if type(writer) is StreamWriter:
        writer.__class__ = _Writer
    return callback(reader, writer)
