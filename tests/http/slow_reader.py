"""A client whose kernel takes little, so that the server's fills."""

from __future__ import annotations

import socket

from messages import DEADLINE_S, Connection
from servers import Server


class SlowReader(Connection):
    """A connection with a small receive buffer, with TLS if the server has it."""

    def __init__(self, server: Server) -> None:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.settimeout(DEADLINE_S)
        plain.connect(server.address)
        self.socket = plain
        if (context := server.client_context()) is not None:
            self.socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        self._unread = b""
