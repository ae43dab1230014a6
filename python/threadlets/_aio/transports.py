"""Socket transports: what happens once per connection, around a native stream."""

from __future__ import annotations

import asyncio
import os
import socket
import warnings
from asyncio import base_events, constants, futures, transports, trsock
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from threadlets import _core
from threadlets._aio.streams import read_buffer_of
from threadlets._hooks import TransportHooks, implements

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from threadlets._aio.loop import Loop


@implements(TransportHooks)
class SocketTransport(transports._FlowControlMixin):
    """A connected TCP or Unix socket.

    `write` is the native stream's own method: it is called once per message, and a Python frame
    around it would be a good part of its cost.
    """

    __slots__ = (
        "__dict__",  # Made only when a program sets an attribute of its own.
        "__weakref__",
        "_empty_waiter",
        "_known",
        "_protocol",
        "_server",
        "_sock_fd",
        "_socket",
        "_sockname",
        "_stream",
        "_users_socket",
        "write",
    )

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket | _core.Stream,
        protocol: asyncio.BaseProtocol,
        extra: dict[str, Any] | None,
        server: Any = None,
        context: Context | None = None,
    ) -> None:
        # The caller owns the socket until nothing can fail any more.
        self._socket: socket.socket | None = None
        self._sock_fd = -1
        fd = sock.fileno()
        # Extra information is made on demand, since most connections are never asked for it.
        self._known = extra
        self._sockname: Any = None
        self._users_socket: trsock.TransportSocket | None = None
        self._loop: Loop | None = loop
        # `_FlowControlMixin.__init__` is not called: the water marks are the native stream's.
        if isinstance(sock, _core.Stream):
            self._stream = sock
            sock.set_transport(self)
        else:
            self._stream = _core.Stream(loop, fd, self, context)
        self.write = self._stream.write  # type: ignore[method-assign]
        self._empty_waiter: asyncio.Future[None] | None = None
        self.set_protocol(protocol)
        self._server = server
        if server is not None:
            _attach(server, self)
        self._sock_fd = fd
        if not isinstance(sock, _core.Stream):
            self._socket = sock
        loop._socket_transports[fd] = self

    @classmethod
    def connected(
        cls,
        loop: Loop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: Context | None = None,
    ) -> SocketTransport:
        """Make a transport of a socket object, and call `connection_made` in the next tick.

        The protocol is called in `context`; if that is None, in copies of the current context.
        """
        extra = {"sockname": _address(sock.getsockname)} | (extra or {})
        if "peername" not in extra:
            extra["peername"] = _address(sock.getpeername)
        # Small messages are sent at once, without waiting for an acknowledgement.
        base_events._set_nodelay(sock)
        transport = cls(loop, sock, protocol, extra, server, context)
        loop.call_soon(protocol.connection_made, transport, context=context)
        # Queued after connection_made, before which no data may arrive.
        loop.call_soon(transport._stream.start, context=context)
        if waiter is not None:
            loop.call_soon(futures._set_result_unless_cancelled, waiter, None, context=context)
        return transport

    @classmethod
    def accepted(
        cls,
        loop: Loop,
        stream: _core.Stream,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sockname: Any,
        server: Any,
    ) -> None:
        """Make a transport of a connection that a server has accepted, and start it at once.

        `sockname` is None if the connections of the server do not share one.
        """
        try:
            sockname = sockname or _core.sockname(stream.fileno())
            protocol = protocol_factory()
            transport = cls(loop, stream, protocol, None, server_if_open(server))
        except BaseException:
            os.close(stream.fileno())
            raise
        transport._sockname = sockname
        try:
            protocol.connection_made(transport)
        finally:
            stream.start()

    @property
    def _extra(self) -> dict[str, Any]:
        """The connection's extra information, with its socket, as asyncio keeps it."""
        return self._names() | {"socket": self.get_extra_info("socket")}

    def _names(self) -> dict[str, Any]:
        """Return the connection's extra information without its socket."""
        if self._known is None:
            self._known = {"peername": self._stream.peername(), "sockname": self._sockname}
        return self._known

    @property
    def _read_ready_cb(self) -> Any:
        """The object that reads from the socket, by its name in asyncio's own transport."""
        return self._stream

    @property
    def _sock(self) -> socket.socket | None:
        """The socket object, made at its first use; None once the socket is closed."""
        if self._socket is None and self._sock_fd != -1:
            lazy = self._users_socket
            self._socket = _socket_of(self._sock_fd) if lazy is None else lazy._sock
        return self._socket

    def _close_socket(self) -> None:
        fd, self._sock_fd = self._sock_fd, -1
        if self._loop is not None:
            self._loop._socket_transports.pop(fd, None)
        if isinstance(self._users_socket, _LazySocket):
            self._users_socket._close()
        elif self._socket is not None:
            self._socket.close()
        elif fd != -1:
            os.close(fd)
        self._socket = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection: "socket", "sockname" or "peername"."""
        if name != "socket":
            if self._known is None and name not in ("peername", "sockname"):
                return default
            return self._names().get(name, default)
        if self._users_socket is None:
            self._users_socket = (
                _LazySocket(self._sock_fd)
                if self._socket is None
                else trsock.TransportSocket(self._socket)
            )
        return self._users_socket

    def __repr__(self) -> str:
        state = ["closed"] if self._sock_fd == -1 else ["closing"] * self.is_closing()
        reading = "polling" if self._stream.is_reading() else "idle"
        n_unsent = self._stream.get_write_buffer_size()
        writing = "polling" if n_unsent else "idle"
        info = [
            type(self).__name__,
            *state,
            f"fd={self._sock_fd}",
            f"read={reading}",
            f"write=<{writing}, bufsize={n_unsent}>",
        ]
        return f"<{' '.join(info)}>"

    def __del__(self) -> None:
        if self._sock is not None:
            warnings.warn(
                f"unclosed transport {self!r}", ResourceWarning, stacklevel=2, source=self
            )
            self._sock.close()

    # -- private attributes of asyncio's transports that programs read (docs/compatibility.md) ----

    @property
    def _closing(self) -> bool:
        return self._stream.is_closing()

    @property
    def _context(self) -> Context | None:
        return self._stream.context()

    @property
    def _protocol_connected(self) -> bool:
        return self._protocol is not None

    @property
    def _paused(self) -> bool:
        return self._stream.is_reading_paused()

    @property
    def _eof(self) -> bool:
        return self._stream.is_writing_ended()

    @property
    def _conn_lost(self) -> int:
        return self._stream.n_lost()

    @property
    def _buffer(self) -> bytearray:
        """A copy of the unsent bytes."""
        return self._stream.unsent()

    @property
    def _low_water(self) -> int:
        return self._stream.get_write_buffer_limits()[0]

    @property
    def _high_water(self) -> int:
        return self._stream.get_write_buffer_limits()[1]

    # -- protocol ------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver received data to `protocol` from now on."""
        self._protocol: asyncio.BaseProtocol | None = protocol
        lends = isinstance(protocol, asyncio.BufferedProtocol)
        self._stream.set_protocol(protocol, lends, read_buffer_of(protocol, self._loop))

    def get_protocol(self) -> Any:
        """Return the protocol; None once the connection is lost."""
        return self._protocol

    # -- reading -------------------------------------------------------------------------------

    def is_reading(self) -> bool:
        """Return whether data is being received."""
        return self._stream.is_reading()

    def pause_reading(self) -> None:
        """Receive nothing until `resume_reading()`."""
        if self._stream.pause() and self._loop and self._loop._debug:
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        """Receive again."""
        if self._stream.resume() and self._loop and self._loop._debug:
            logger.debug("%r resumes reading", self)

    def _received_end(self) -> None:
        """Handle the end of the peer's half: close, unless the protocol wants to go on writing."""
        assert self._loop is not None
        assert self._protocol is not None
        if self._loop._debug:
            logger.debug("%r received EOF", self)
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if not keep_open:
            self.close()

    # -- writing -------------------------------------------------------------------------------

    def writelines(self, list_of_data: Any) -> None:
        """Send a list of bytes-like objects as if they were one."""
        self._stream.writelines(list_of_data)

    def write_eof(self) -> None:
        """End the writing half once everything is sent; data may still be received."""
        self._stream.write_eof()

    def can_write_eof(self) -> bool:
        """Return True: the two halves of a socket can be ended separately."""
        return True

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are yet to be sent."""
        return self._stream.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the water marks in bytes: low, high."""
        return self._stream.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks in bytes; low is a quarter of high unless given.

        Raises:
            ValueError: not `high >= low >= 0`.
        """
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        if self._stream.set_write_buffer_limits(low, high):
            self._pause_protocol()

    @property
    def _protocol_paused(self) -> bool:
        return self._stream.is_writing_paused()

    def _pause_protocol(self) -> None:
        self._call_protocol("pause_writing")

    def _resume_protocol(self) -> None:
        self._call_protocol("resume_writing")

    def _call_protocol(self, method: str) -> None:
        try:
            getattr(self._protocol, method)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            assert self._loop is not None
            self._loop.call_exception_handler(
                {
                    "message": f"protocol.{method}() failed",
                    "exception": exc,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )

    # -- sendfile: the loop writes to the socket itself once everything is sent ----------------

    def _make_empty_waiter(self) -> asyncio.Future[None]:
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        assert self._loop is not None
        self._empty_waiter = self._loop.create_future()
        if not self._stream.lend():
            self._empty_waiter.set_result(None)
        return self._empty_waiter

    def _reset_empty_waiter(self) -> None:
        self._stream.take_back()
        self._empty_waiter = None

    def _drained(self) -> None:
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_result(None)

    # -- ending --------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""
        return self._stream.is_closing()

    def close(self) -> None:
        """Close once everything is sent."""
        if self._stream.close():
            assert self._loop is not None
            self._loop.call_soon(self._lose, None, context=self._stream.context())

    def abort(self) -> None:
        """Close now; what is unsent is lost."""
        self._force_close(None)

    def _force_close(self, exc: BaseException | None) -> None:
        if self._stream.abort():
            assert self._loop is not None
            self._loop.call_soon(self._lose, exc, context=self._stream.context())

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        """Abort the connection; log an OSError in debug mode, report any other exception."""
        if self._loop is None:
            return
        if not isinstance(exc, OSError):
            self._loop.call_exception_handler(
                {
                    "message": message,
                    "exception": exc,
                    "transport": self,
                    "protocol": self._protocol,
                }
            )
        elif self._loop._debug:
            logger.debug("%r: %s", self, message, exc_info=exc)
        self._force_close(exc)

    def _lose(self, exc: BaseException | None) -> None:
        """Call `connection_lost`, and close the descriptor."""
        protocol, server = self._protocol, self._server
        try:
            if protocol is not None:
                protocol.connection_lost(exc)  # type: ignore[arg-type]
        finally:
            self._stream.release()
            self._close_socket()
            self._protocol = self._loop = self._server = None
            if server is not None:
                _detach(server, self)
            waiter = self._empty_waiter
            if waiter is not None and not waiter.done():
                waiter.set_exception(ConnectionError("Connection is closed by peer"))


class _LazySocket(trsock.TransportSocket):
    """The socket that a transport shows: a descriptor, with a socket object made when it is needed.

    Most programs ask only for addresses, and a socket object costs four system calls.
    """

    __slots__ = ("_fd", "_made")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._made: socket.socket | None = None

    @property
    def _sock(self) -> socket.socket:
        if self._made is None:
            if self._fd == -1:
                self._made = socket.socket()
                self._made.close()
            else:
                self._made = _socket_of(self._fd)
        return self._made

    def fileno(self) -> int:
        """Return the number of the descriptor; -1 once it is closed."""
        return self._fd

    def getsockname(self) -> Any:
        """Return the address of this end."""
        return _core.sockname(self._fd)

    def getpeername(self) -> Any:
        """Return the address of the other end."""
        return _core.peername(self._fd)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if self._made is not None:
            self._made.close()
        elif fd != -1:
            os.close(fd)


def server_if_open(server: Any) -> Any:
    """Return the server that counts a new connection; None if it has been closed meanwhile."""
    return None if getattr(server, "_sockets", ()) is None else server


def _socket_of(fd: int) -> socket.socket:
    """Make the socket object of a descriptor, which then owns the descriptor."""
    made = socket.socket(fileno=fd)
    made.setblocking(False)
    return made


def _address(get: Any) -> Any:
    try:
        return get()
    except OSError:
        return None


if hasattr(base_events.Server, "get_loop") and (
    base_events.Server._attach.__code__.co_argcount > 1
):

    def _attach(server: Any, transport: SocketTransport) -> None:
        """Count the transport among its server's connections."""
        server._attach(transport)

    def _detach(server: Any, transport: SocketTransport) -> None:
        server._detach(transport)

else:  # Before Python 3.13 a server counts its connections without knowing them.

    def _attach(server: Any, transport: SocketTransport) -> None:
        server._attach()

    def _detach(server: Any, transport: SocketTransport) -> None:
        server._detach()


if TYPE_CHECKING:
    _hooks: type[TransportHooks] = SocketTransport
