"""A server: its listening sockets, the application's lifespan, stopping, and what is logged.

Connections and requests are native (`crates/http`); this module runs once per server.
"""

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
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from threadlets import _core
from threadlets._aio.loop import Loop
from threadlets._hooks import HttpServerHooks, implements
from threadlets._public import set_module
from threadlets.frameworks import use_threadlets_in_anyio
from threadlets.http._access_log import FORMATS
from threadlets.http._config import FILES_FIELDS, Config
from threadlets.http._counted import MetricsApp
from threadlets.http._lifespan import Lifespan
from threadlets.http._listen import bind, bind_metrics
from threadlets.http._proxy import (
    FORWARDING_HEADERS,
    BehindProxies,
    TrustedProxies,
    WsgiBehindProxies,
    find_client,
)
from threadlets.http._target import check_app, check_files_options
from threadlets.http._team import REPLACED_SIGNAL, Team
from threadlets.http._tls import tls_options

logger = logging.getLogger("threadlets.http")

STOPPING_KEY = "threadlets.stopping"
"""Key in `scope["state"]` of an asyncio.Event that is set when the server begins to stop.

Endless responses, such as server-sent events, can wait for it and end without being cancelled.
"""

#: How long a server waits for the tasks of requests that it has cancelled.
_CANCELLED_S = 0.5
#: How soon a listening socket accepts again after it has failed: descriptors have run out, usually.
_ACCEPT_AGAIN_S = 0.5


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
        RuntimeError: another loop than one of threadlets runs.
        UserError: the application cannot be served, or its start-up or shutdown failed.
        KeyboardInterrupt: a second SIGINT came, and connections were dropped.
    """
    await serve_in_team(app, dataclasses.replace(config or Config(), **options), sockets, on_ready)


async def serve_in_team(
    app: Any,
    config: Config,
    sockets: list[socket.socket] | None,
    on_ready: Callable[[list[socket.socket]], object] | None,
    team: Team | None = None,
) -> None:
    """Serve as `serve` does, and as one of several workers if there is a team.

    A worker is also stopped by SIGHUP: then another one takes its place.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, Loop):
        raise RuntimeError(
            f"threadlets.http.serve() needs a loop of threadlets, and runs on {type(loop).__name__}; "
            "run the program with threadlets.run(main())"
        )
    server = Server(app, config, loop, team)
    listeners = [it for group in bind(config) for it in group] if sockets is None else sockets
    try:
        await server.run(listeners, on_ready)
    finally:
        if sockets is None:
            for listener in listeners:
                listener.close()


@implements(HttpServerHooks)
class Server:
    """One server on the running loop."""

    def __init__(self, app: Any, config: Config, loop: Loop, team: Team | None = None) -> None:
        self._config = config
        self._loop = loop
        self._team = team
        self._interface, self._app = check_app(app, repr(app), interface=config.interface)
        check_files_options(config, self._interface)
        self._trusted = TrustedProxies(config.forwarded_allow_ips)
        self._is_replaced = False
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        self._state: dict[str, Any] = {STOPPING_KEY: self._stopping}
        self._natives: list[_core.HttpServer] = []
        self._format = FORMATS[config.access_log] if config.access_log else None

    async def run(
        self,
        listeners: list[socket.socket],
        on_ready: Callable[[list[socket.socket]], object] | None,
    ) -> None:
        """Serve until told to stop."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._signals())
            if self._interface == "asgi" and self._config.worker_threads == "threadlets":
                stack.enter_context(threadlets_in_anyio())
            mode = self._config.lifespan if self._interface == "asgi" else "off"
            lifespan = Lifespan(self._app, self._state, mode)
            await lifespan.start()
            try:
                native = self._make_native(listeners)
                for listener in listeners:
                    _begin_listening(native, listener)
                self._serve_metrics(stack)
                if on_ready is not None:
                    on_ready(listeners)
                await self._stopping.wait()
                await self._drain()
            finally:
                self._stopping.set()
                for native in self._natives:
                    native.close()
            if self._forced.is_set():
                raise KeyboardInterrupt
            await lifespan.stop()
        logger.info("Stopped")

    # -- the native server ---------------------------------------------------------------------------

    def _make_native(self, listeners: list[socket.socket]) -> _core.HttpServer:
        config = self._config
        folder = None
        app: Any = self._app
        if self._interface == "static":
            folder = (Path(str(self._app)), {name: getattr(config, name) for name in FILES_FIELDS})
        if config.proxy_headers:
            wrap = WsgiBehindProxies if self._interface == "wsgi" else BehindProxies
            app = wrap(app, config.forwarded_allow_ips)
        environ = None
        if self._interface == "wsgi":
            is_multiprocess = self._team is not None and self._team.n_workers > 1
            environ = _environ(config, listeners, is_multiprocess=is_multiprocess)
        return self._add_native(app, folder, is_main=True, environ=environ)

    def _add_native(
        self, app: Any, folder: Any, *, is_main: bool, environ: dict[str, Any] | None = None
    ) -> _core.HttpServer:
        config = self._config
        headers = [(name.lower().encode(), value.encode()) for name, value in config.headers]
        if config.server_header and all(name != b"server" for name, _ in headers):
            headers.append((b"server", b"threadlets"))
        path = config.metrics if (config.metrics or "").startswith("/") else None
        native = _core.HttpServer(
            self._loop,
            app,
            self,
            limits={
                "concurrency": config.limit_concurrency,
                "connections": config.limit_connections,
                "request_line": config.limit_request_line,
                "request_headers": config.limit_request_headers,
                "request_head": config.limit_request_head,
                "request_body": config.limit_request_body,
                "keep_alive": config.timeout_keep_alive,
                "head": config.timeout_request_head,
                "body": config.timeout_request_body,
                "response": config.timeout_response,
                "send_high_water": config.send_high_water,
            },
            headers=headers,
            logs=is_main and self._format is not None,
            root_path=config.root_path,
            scheme="https" if config.ssl_certfile else "http",
            state=self._state if self._interface == "asgi" else None,
            extensions={
                "http.response.trailers": {},
                "http.response.pathsend": {},
                "http.response.zerocopysend": {},
            },
            folder=folder,
            internal=(path, MetricsApp(self._count)) if path else None,
            environ=environ,
            tls=tls_options(config) if is_main else None,
            websockets=self._websockets() if is_main and self._interface == "asgi" else None,
            counts=(self._team.counts, self._team.slot) if is_main and self._team else None,
            logged_headers=list(FORWARDING_HEADERS) if config.proxy_headers else None,
        )
        self._natives.append(native)
        return native

    def _websockets(self) -> dict[str, Any]:
        config = self._config
        return {
            "max_size": config.ws_max_size,
            "ping_interval": config.ws_ping_interval,
            "ping_timeout": config.ws_ping_timeout,
            "per_message_deflate": config.ws_per_message_deflate,
        }

    def _count(self) -> dict[str, Any]:
        return self._natives[0].metrics() if self._team is None else self._team.counts.total()

    def _serve_metrics(self, stack: contextlib.ExitStack) -> None:
        """Serve the metrics on a port of their own, if that is asked for."""
        if self._team is not None:
            listeners = list(self._team.metrics_listeners)
        else:
            listeners = bind_metrics(self._config)
            for listener in listeners:
                stack.callback(listener.close)
        if listeners:
            native = self._add_native(MetricsApp(self._count), None, is_main=False)
            for listener in listeners:
                _begin_listening(native, listener)

    # -- hooks ---------------------------------------------------------------------------------------

    def _application_failed(self, error: BaseException, /) -> None:
        text = "".join(traceback.format_exception(error))
        logger.error("An exception in the application:\n%s", text.rstrip())

    def _accept_failed(self, which: int, error: OSError, /) -> None:
        logger.error("No connection can be accepted: %s; trying again", error)
        native = self._natives[0]
        self._loop.call_later(_ACCEPT_AGAIN_S, native.accept_again, which)

    def _log_requests(self, requests: list[Any], /) -> None:
        assert self._format is not None
        now_s = time.time()
        lines = []
        for peer, method, target, version, status, n_bytes, took_s, headers in requests:
            address = peer[:2] if isinstance(peer, tuple) else None
            if headers:
                address = find_client(address, "http", headers, self._trusted).address
            client = f"{address[0]}:{address[1]}" if address else ""
            path, _, query = target.partition("?")
            entry = (now_s - took_s, client, method, path, query, version, status, n_bytes, took_s)
            lines.append(self._format(entry))
        sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.flush()

    # -- stopping ------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Let requests in flight finish, within the time for that; then cancel them."""
        for native in self._natives:
            native.drain(restarts=self._is_replaced)
        deadline_s = time.monotonic() + self._config.timeout_graceful_shutdown
        while any(native.counts()[0] for native in self._natives):
            if self._forced.is_set() or time.monotonic() >= deadline_s:
                break
            await self._pause(0.05)
        for native in self._natives:
            native.abort()
        deadline_s = time.monotonic() + _CANCELLED_S
        while any(native.n_applications() for native in self._natives):
            if time.monotonic() >= deadline_s:
                # They block, and do not end by being cancelled.
                break
            await asyncio.sleep(0.01)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._forced.wait(), seconds)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if self._team is not None:
            numbers.append(REPLACED_SIGNAL)
        for number in numbers:
            self._loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in numbers:
                self._loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            self._is_replaced = number is REPLACED_SIGNAL
            logger.info("Stopping on %s: requests in flight may finish", number.name)
            self._stopping.set()
        elif number is signal.SIGINT and not self._forced.is_set():
            logger.warning("Stopping at once: connections are dropped")
            self._forced.set()


def _environ(
    config: Config, listeners: list[socket.socket], *, is_multiprocess: bool
) -> dict[str, Any]:
    """Return what the environs of all requests share."""
    internet = [it for it in listeners if it.family in (socket.AF_INET, socket.AF_INET6)]
    # The port that was asked for may be 0, and there may be none.
    port = internet[0].getsockname()[1] if internet else config.port
    return {
        "SCRIPT_NAME": config.root_path,
        "SERVER_NAME": config.host,
        "SERVER_PORT": str(port),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if config.ssl_certfile else "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": is_multiprocess,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": _core.FileWrapper,
    }


def _begin_listening(native: _core.HttpServer, listener: socket.socket) -> None:
    listener.setblocking(False)
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        # Connections inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    native.listen(listener.fileno())


@contextlib.contextmanager
def threadlets_in_anyio() -> Iterator[None]:
    """Have the `def` endpoints of Starlette and FastAPI run as threadlets, if anyio is installed."""
    if "anyio" not in sys.modules:
        yield
        return
    with use_threadlets_in_anyio():
        yield
