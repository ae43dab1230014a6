"""One listening socket: make a transport and a protocol for every connection it accepts."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from asyncio import constants, trsock
from asyncio.log import logger
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from threadlets._aio.transports import SocketTransport, server_if_open

if TYPE_CHECKING:
    from contextvars import Context

    from threadlets import _core
    from threadlets._aio.loop import Loop

_NOT_LISTENING = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP)
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Serving:
    """Serves one listening socket, from `start` until the loop removes its reader."""

    def __init__(
        self,
        loop: Loop,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: Any,
        server: Any,
        ssl_timeouts: tuple[float | None, float | None],
        context: Context | None,
    ) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._sock = sock
        self._sslcontext = sslcontext
        self._server = server
        self._ssl_timeouts = ssl_timeouts
        self._context = context
        self._fd = -1
        self._sockname: Any = None

    def start(self) -> None:
        """Start to accept connections, natively."""
        if self._sock.fileno() == -1:
            return  # The server was closed while it waited for descriptors.
        self._fd = self._sock.fileno()
        self._sockname = _fixed_sockname(self._sock)
        accepted = self._accepted if self._sslcontext is None else self._accepted_tls
        self._loop._add_acceptor(self._sock, accepted, self._refused, self._context)

    def _accepted(self, stream: _core.Stream) -> None:
        if self._loop._debug:
            name, fd = stream.peername(), stream.fileno()
            logger.debug("%r got a new connection from %r: %r", self._server, name, fd)
        try:
            SocketTransport.accepted(
                self._loop, stream, self._protocol_factory, self._sockname, self._server
            )
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            message = "Error on transport creation for incoming connection"
            self._loop.call_exception_handler({"message": message, "exception": exc})

    def _accepted_tls(self, stream: _core.Stream) -> None:
        conn = socket.socket(fileno=stream.fileno())
        conn.setblocking(False)
        # Before CPython 3.15 no context is given, and `_accept_connection2` takes none.
        context = stream.context()
        given: Any = {} if context is None else {"context": context}
        self._loop.create_task(
            self._loop._accept_connection2(
                self._protocol_factory,
                conn,
                {"peername": stream.peername()},
                self._sslcontext,
                server_if_open(self._server),
                *self._ssl_timeouts,
                **given,
            ),
            **given,
        )

    def _refused(self, exc: OSError) -> None:
        """Report why a connection was not accepted; go on accepting at once, later, or not at all."""
        loop = self._loop
        context: dict[str, Any] = {
            "message": "socket.accept() failed for one connection",
            "exception": exc,
            "socket": trsock.TransportSocket(self._sock),
        }
        if exc.errno in _NOT_LISTENING:
            context["message"] = "socket.accept() failed: the socket does not listen any more"
            loop._remove_reader(self._fd)
        elif exc.errno in _OUT_OF_RESOURCES:
            loop._remove_reader(self._fd)
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            context["message"] = (
                "socket.accept() out of system resource: connections wait in the backlog; "
                f"the limit is {limit} descriptors, raise it with `ulimit -n`"
            )
            loop.call_later(constants.ACCEPT_RETRY_DELAY, self.start)
        loop.call_exception_handler(context)


def _fixed_sockname(listener: socket.socket) -> Any:
    """Return the address that all connections of a listener share, or None if each has its own."""
    sockname = listener.getsockname()
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return sockname
    return None if sockname[0] in ("0.0.0.0", "::") else sockname
