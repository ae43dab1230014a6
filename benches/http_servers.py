"""HTTP servers of one small page, one request a connection: the same protocol on every loop; nginx.

``python -m benches.http_servers PEER STYLE DIRECTORY`` listens on a free port of 127.0.0.1, prints
``{"port": P}`` and serves until killed. nginx keeps its page and its files in the directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import ClassVar

from benches import peers
from benches.calls import ways
from benches.servers import BACKLOG, settle_heap

BODY = b"x" * 1024
_RESPONSE = b"HTTP/1.0 200 OK\r\nContent-Length: 1024\r\nContent-Type: text/plain\r\n\r\n" + BODY
_BLOCK_S = 0.001
STYLES = ("at-once", "half-blocking")

_NGINX = """\
daemon off;
# One process, as its one worker would be; killed, it leaves none behind.
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    types {{ text/plain html; }}
    client_body_temp_path {directory};
    proxy_temp_path {directory};
    fastcgi_temp_path {directory};
    uwsgi_temp_path {directory};
    scgi_temp_path {directory};
    server {{
        listen 127.0.0.1:{port} backlog={backlog};
        root {directory};
    }}
}}
"""


class Responder(asyncio.Protocol):
    """Answer one request and close. A request is assumed to come in one piece, as small ones do."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to answer on."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer at once."""
        self.answer()

    def answer(self) -> None:
        """Send the page and end the connection, unless the client has left."""
        if not self.transport.is_closing():
            self.transport.write(_RESPONSE)
            self.transport.close()


class HalfBlockingResponder(Responder):
    """Before every second answer, call a function that blocks for 1 ms."""

    call: ways.Call
    n_requests = 0
    tasks: ClassVar[set[asyncio.Task[None]]] = set()

    def data_received(self, data: bytes) -> None:
        """Answer at once, or after the function."""
        HalfBlockingResponder.n_requests += 1
        if self.n_requests % 2:
            self.answer()
            return
        task = asyncio.get_running_loop().create_task(self.answer_later())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer_later(self) -> None:
        """Answer after the function."""
        await type(self).call(time.sleep, _BLOCK_S)
        self.answer()


def main(peer: str, style: str, directory: str) -> None:
    """Serve until killed."""
    if peer == "nginx":
        _become_nginx(Path(directory))
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    settle_heap()
    peers.run(peer, _serve(peer, style, listener))


async def _serve(peer: str, style: str, listener: socket.socket) -> None:
    protocol = Responder
    if style == "half-blocking":
        HalfBlockingResponder.call = staticmethod(ways.caller(peer))
        protocol = HalfBlockingResponder
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, sock=listener, backlog=BACKLOG)
    await server.serve_forever()


def _become_nginx(directory: Path) -> None:
    """Replace this process by nginx, which listens a moment after the port is printed."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (directory / "index.html").write_bytes(BODY)
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(directory=directory, port=port, backlog=BACKLOG))
    print(json.dumps({"port": port}), flush=True)
    log = str(directory / "error.log")
    os.execvp("nginx", ["nginx", "-e", log, "-p", str(directory), "-c", str(config)])


if __name__ == "__main__":
    main(*sys.argv[1:])
