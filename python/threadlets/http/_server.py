"""A stand-in for the server: enough of HTTP/1.1 to answer GET requests by an ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from threadlets._public import set_module
from threadlets._user_error import UserError
from threadlets.frameworks import wsgi
from threadlets.http._access_log import FORMATS
from threadlets.http._config import Config
from threadlets.http._listen import bind
from threadlets.http._target import check_app

logger = logging.getLogger("threadlets.http")

STOPPING_KEY = "threadlets.stopping"
"""Key in `scope["state"]` of an asyncio.Event that is set when the server begins to stop.

Endless responses, such as server-sent events, can wait for it and end without being cancelled.
"""

#: How long a connection may be idle while the server drains.
_IDLE_WHILE_DRAINING_S = 1.0


@set_module("threadlets.http")
async def serve(
    app: Any,
    config: Config | None = None,
    *,
    sockets: list[socket.socket] | None = None,
    on_ready: Callable[[list[socket.socket]], object] | None = None,
    **options: Any,
) -> None:
    """Serve an application, or a folder, until the task is cancelled or the process is told to stop.

    `sockets` listen already; without them, those that the configuration names are bound. `on_ready` is
    called with the listening sockets once the application has started and connections are accepted.
    Options are fields of `Config`.

    In the main thread, SIGINT and SIGTERM stop it: requests in flight may finish.

    Raises:
        ConfigError: an option has a value that it cannot have.
        UserError: the application cannot be served, or its start-up or shutdown failed.
        KeyboardInterrupt: a second SIGINT came, and connections were dropped.
    """
    config = dataclasses.replace(config or Config(), **options)
    server = _Server(app, config)
    listeners = [it for group in bind(config) for it in group] if sockets is None else sockets
    try:
        await server.run(listeners, on_ready)
    finally:
        if sockets is None:
            for listener in listeners:
                listener.close()


class _Server:
    def __init__(self, app: Any, config: Config) -> None:
        interface, found = check_app(app, repr(app), interface=config.interface)
        self._app: Any = (
            wsgi(found)  # type: ignore[arg-type]
            if interface == "wsgi"
            else _static(str(found))
            if interface == "static"
            else found
        )
        self._config = config
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._state: dict[str, Any] = {STOPPING_KEY: self._stopping}
        self._connections: set[asyncio.Task[None]] = set()

    async def run(
        self,
        listeners: list[socket.socket],
        on_ready: Callable[[list[socket.socket]], object] | None,
    ) -> None:
        with self._signals():
            lifespan = _Lifespan(self._app, self._state, self._config.lifespan)
            await lifespan.start()
            servers = [
                await asyncio.start_server(
                    self._connected, sock=it.dup(), backlog=self._config.backlog
                )
                for it in listeners
            ]
            if on_ready is not None:
                on_ready(listeners)
            try:
                await self._stopping.wait()
            finally:
                self._stopping.set()
                for server in servers:
                    server.close()
            await self._drain()
            if self._forced.is_set():
                raise KeyboardInterrupt
            await lifespan.stop()
        logger.info("Stopped")

    async def _drain(self) -> None:
        forced = asyncio.ensure_future(self._forced.wait())
        deadline_s = time.monotonic() + self._config.timeout_graceful_shutdown
        while self._connections and not forced.done():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            await asyncio.wait(
                {*self._connections, forced},
                timeout=left_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        forced.cancel()
        for task in self._connections:
            task.cancel()
        if self._connections:
            # What blocks does not end by that.
            await asyncio.wait(self._connections, timeout=0.5)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            logger.info("Stopping on %s: requests in flight may finish", number.name)
            self._stopping.set()
        elif number is signal.SIGINT and not self._forced.is_set():
            logger.warning("Stopping at once: connections are dropped")
            self._forced.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if (head := await self._receive_head(reader)) is None:
            return False
        began_s = time.monotonic()
        line, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = line.partition(" ")
        target = rest.rpartition(" ")[0]
        path, _, query = target.partition("?")
        peer = writer.get_extra_info("peername")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": self._config.root_path,
            "headers": [
                (name.strip().lower().encode(), value.strip().encode())
                for name, _, value in (it.partition(":") for it in lines if it)
            ],
            "client": tuple(peer[:2]) if isinstance(peer, tuple) else None,
            "server": ("127.0.0.1", 0),
            "state": self._state,
        }
        answer: dict[str, Any] = {"headers": [], "body": b"", "status": 500}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            answer["body"] += message.get("body", b"")
            answer.update({k: v for k, v in message.items() if k in ("status", "headers")})

        try:
            await self._app(scope, receive, send)
        except Exception:
            logger.exception("The application failed")
        closes = self._stopping.is_set()
        headers = [
            *[it for it in answer["headers"] if it[0].lower() != b"content-length"],
            *([(b"server", b"threadlets")] if self._config.server_header else []),
            *[(name.encode(), value.encode()) for name, value in self._config.headers],
            (b"content-length", str(len(answer["body"])).encode()),
            *([(b"connection", b"close")] if closes else []),
        ]
        status = answer["status"]
        writer.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
            + b"".join(b"%b: %b\r\n" % it for it in headers)
            + b"\r\n"
            + answer["body"]
        )
        await writer.drain()
        if self._config.access_log:
            client = f"{peer[0]}:{peer[1]}" if scope["client"] else ""
            duration_s = time.monotonic() - began_s
            n = len(answer["body"])
            entry = (time.time(), client, method, path, query, "1.1", status, n, duration_s)
            sys.stdout.write(FORMATS[self._config.access_log](entry) + "\n")
            sys.stdout.flush()
        return not closes

    async def _receive_head(self, reader: asyncio.StreamReader) -> bytes | None:
        reading = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait(
                {reading, stopping},
                timeout=self._config.timeout_keep_alive,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not reading.done() and stopping.done():
                await asyncio.wait({reading}, timeout=_IDLE_WHILE_DRAINING_S)
            return reading.result()[:-4] if reading.done() else None
        except asyncio.IncompleteReadError:
            return None
        finally:
            reading.cancel()
            stopping.cancel()


class _Lifespan:
    def __init__(self, app: Any, state: dict[str, Any], mode: str) -> None:
        self._app = app
        self._state = state
        self._mode = mode
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._mode == "off":
            return
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        self._task = asyncio.create_task(self._app(scope, self._to_app.get, self._from_app.put))
        message = await self._ask("lifespan.startup")
        if message is None and self._mode == "auto" and self._task.exception() is not None:
            self._task = None
        elif message is None or message["type"].endswith(".failed"):
            self._log(message)
            raise UserError(
                fact="the application did not start",
                cause="its lifespan start-up failed; the log above has its message",
                remedy="fix the application's start-up",
            )

    async def stop(self) -> None:
        if self._task is None:
            return
        message = await self._ask("lifespan.shutdown")
        if message is not None and message["type"].endswith(".failed"):
            self._log(message)
            raise UserError(
                fact="the application did not shut down",
                cause="its lifespan shutdown failed; the log above has its message",
                remedy="fix the application's shutdown",
            )

    def _log(self, message: dict[str, Any] | None) -> None:
        if message is not None and message.get("message"):
            logger.error("%s", message["message"])

    async def _ask(self, kind: str) -> dict[str, Any] | None:
        assert self._task is not None
        self._to_app.put_nowait({"type": kind})
        answer = asyncio.ensure_future(self._from_app.get())
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done() or not self._from_app.empty():
            return await answer
        answer.cancel()
        return None


def _static(folder: str) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("no lifespan")
        path = Path(folder) / scope["path"].lstrip("/")
        path = path / "index.html" if path.is_dir() else path
        status, body = (200, path.read_bytes()) if path.is_file() else (404, b"")
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app
