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

from threadlets.aio.transports import SocketTransport

if TYPE_CHECKING:
    from threadlets.aio.loop import Loop

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Serving:
    """What a listening socket serves, from `start` until the loop removes its reader."""

    def __init__(
        self,
        loop: Loop,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: Any,
        server: Any,
        ssl_timeouts: tuple[float | None, float | None],
    ) -> None:
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._sock = sock
        self._sslcontext = sslcontext
        self._server = server
        self._ssl_timeouts = ssl_timeouts

    def start(self) -> None:
        """Accept connections, in bursts, until none is waiting."""
        fd = self._sock.fileno()
        if fd != -1:  # The server was closed while it waited for descriptors.
            self._loop._add_acceptor(fd, self._accepted, self._refused)

    def _accepted(self, fd: int) -> None:
        listener = self._sock
        conn = socket.socket(listener.family, listener.type, listener.proto, fileno=fd)
        conn.setblocking(False)
        loop = self._loop
        if loop._debug:
            logger.debug("%r got a new connection: %r", self._server, conn)
        if self._sslcontext is not None:
            handshake_timeout, shutdown_timeout = self._ssl_timeouts
            loop.create_task(
                loop._accept_connection2(
                    self._protocol_factory,
                    conn,
                    {},
                    self._sslcontext,
                    self._server,
                    handshake_timeout,
                    shutdown_timeout,
                )
            )
            return
        try:
            protocol = self._protocol_factory()
            SocketTransport(loop, conn, protocol, server=self._server)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            conn.close()
            loop.call_exception_handler(
                {
                    "message": "Error on transport creation for incoming connection",
                    "exception": exc,
                }
            )

    def _refused(self, exc: OSError) -> None:
        """Out of descriptors or memory: say so, and accept again a little later."""
        loop = self._loop
        context: dict[str, Any] = {
            "message": "socket.accept() failed; the socket is no longer served",
            "exception": exc,
            "socket": trsock.TransportSocket(self._sock),
        }
        loop._remove_reader(self._sock.fileno())
        if exc.errno in _OUT_OF_RESOURCES:
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            context["message"] = (
                "socket.accept() out of system resource: connections wait in the backlog; "
                f"the limit is {limit} descriptors, raise it with `ulimit -n`"
            )
            loop.call_later(constants.ACCEPT_RETRY_DELAY, self.start)
        loop.call_exception_handler(context)
