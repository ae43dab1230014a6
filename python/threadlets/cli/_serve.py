"""``threadlets serve``: an ASGI application over HTTP/1.1 and websockets, in one process."""

from __future__ import annotations

import importlib.util
import os
import socket
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

import threadlets
from threadlets.cli._asgi_app import AsgiApp, load_app
from threadlets.cli._errors import STATUS_INTERRUPTED, STATUS_USAGE, UserError
from threadlets.cli._limits import DescriptorLimit, raise_descriptor_limit
from threadlets.cli._listen import bind_tcp, bind_uds

if TYPE_CHECKING:
    import uvicorn

# Descriptors for anything but connections: the loop, the log, the application's own files.
_N_DESCRIPTORS_SPARE = 64


class LogLevel(StrEnum):
    """The level of the server's log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Lifespan(StrEnum):
    """Whether the application takes part in the ASGI lifespan protocol."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


def serve(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:APP", help="The ASGI application to serve.")
    ],
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0 takes a free one.")] = 8000,
    uds: Annotated[
        str | None, typer.Option(metavar="PATH", help="Listen on a Unix socket, not on TCP.")
    ] = None,
    app_dir: Annotated[
        str, typer.Option(metavar="FOLDER", help="Put this folder first on sys.path.")
    ] = ".",
    factory: Annotated[
        bool, typer.Option("--factory", help="MODULE:APP is a function that returns the app.")
    ] = False,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="Log each request.")
    ] = True,
    log_level: Annotated[LogLevel, typer.Option(help="The level of the log.")] = LogLevel.INFO,
    lifespan: Annotated[
        Lifespan,
        typer.Option(help="'on' refuses to serve if the application's start-up raises."),
    ] = Lifespan.AUTO,
    backlog: Annotated[
        int, typer.Option(metavar="N", min=1, help="Connections that may wait to be accepted.")
    ] = 2048,
    keep_alive: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="Close idle connections after this time.")
    ] = 5,
    graceful_timeout: Annotated[
        int,
        typer.Option(
            metavar="SECONDS", min=0, help="Time for requests in flight to finish after a stop."
        ),
    ] = 10,
    debug: Annotated[
        bool, typer.Option("--debug", help="Switch on asyncio's debug mode in the loop.")
    ] = False,
) -> None:
    """Serve an ASGI application over HTTP/1.1 and websockets.

    SIGINT (Ctrl-C) and SIGTERM stop it gracefully: it accepts no more connections, requests in
    flight may finish within the graceful timeout, and the exit status is 0. A second Ctrl-C drops
    the remaining connections.
    """
    _require_protocol_stack()
    limit = raise_descriptor_limit(max(8192, backlog + _N_DESCRIPTORS_SPARE))
    app = load_app(target, app_dir=app_dir, factory=factory)
    listeners = bind_tcp(host, port) if uds is None else [bind_uds(uds)]
    config = _config(
        app,
        backlog=backlog,
        access_log=access_log,
        log_level=log_level,
        lifespan=lifespan,
        keep_alive=keep_alive,
        graceful_timeout=graceful_timeout,
    )
    try:
        raise SystemExit(_serve_until_stopped(config, target, listeners, limit, debug=debug))
    finally:
        if uds is not None:
            with suppress(OSError):
                os.unlink(uds)


def _require_protocol_stack() -> None:
    if importlib.util.find_spec("uvicorn") is None:
        raise UserError(
            fact="cannot serve HTTP",
            cause="the package 'uvicorn' is not installed",
            remedy="pip install 'threadlets[serve]'",
            status=STATUS_USAGE,
            is_one_line=True,
        )


def _config(
    app: AsgiApp,
    *,
    backlog: int,
    access_log: bool,
    log_level: LogLevel,
    lifespan: Lifespan,
    keep_alive: int,
    graceful_timeout: int,
) -> uvicorn.Config:
    import uvicorn

    from threadlets.cli._server import logging_config

    has_httptools = importlib.util.find_spec("httptools") is not None
    return uvicorn.Config(
        app,
        loop="none",
        http="httptools" if has_httptools else "h11",
        interface="asgi3",
        lifespan=lifespan.value,
        log_config=logging_config(),
        log_level=log_level.value,
        access_log=access_log,
        backlog=backlog,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=graceful_timeout,
        headers=[("server", "threadlets")],
        # Without a proxy in front, clients can put anything into these headers.
        proxy_headers=False,
        workers=1,
    )


def _serve_until_stopped(
    config: uvicorn.Config,
    title: str,
    listeners: list[socket.socket],
    limit: DescriptorLimit,
    *,
    debug: bool,
) -> int:
    from threadlets.cli._server import Server, logger

    logger.setLevel(str(config.log_level).upper())
    _log_limit(limit)
    server = Server(config, title)
    threadlets.run(server.serve(sockets=listeners), debug=debug or None)
    if server.force_exit:
        return STATUS_INTERRUPTED
    # The application's own shutdown failed; its message is in the log.
    return 1 if server.lifespan.should_exit else 0


def _log_limit(limit: DescriptorLimit) -> None:
    from threadlets.cli._server import logger

    if limit.was_raised:
        logger.info("Raised the descriptor limit from %d to %d", limit.n_before, limit.n_now)
    if limit.is_short:
        logger.warning(
            "Only %d descriptors are allowed, so about %d connections: ulimit -n %d allows more",
            limit.n_now,
            limit.n_now - _N_DESCRIPTORS_SPARE,
            limit.n_needed,
        )
