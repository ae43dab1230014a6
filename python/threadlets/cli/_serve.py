"""``threadlets serve``: its options, which typer makes of a function's parameters."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.core

from threadlets._user_error import STATUS_USAGE, UserError
from threadlets.cli._serving import is_typed, serve_as_asked
from threadlets.cli._settings import Parameter, find_settings
from threadlets.http._config import Config


class ServeCommand(typer.core.TyperCommand):
    """Take what is not on the command line from the environment or from pyproject.toml."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        settings = find_settings(
            {
                str(it.name): Parameter(
                    is_many=getattr(it, "multiple", False), is_flag=getattr(it, "is_flag", False)
                )
                for it in self.params
            }
        )
        extra["default_map"] = {name: it.value for name, it in settings.items()}
        # The command finds it there.
        extra["obj"] = settings
        try:
            return super().make_context(info_name, args, parent, **extra)
        except typer.BadParameter as error:
            name = str(getattr(error.param, "name", ""))
            if name not in settings or is_typed(error.ctx, name):
                raise
            raise UserError(
                fact=f"{settings[name].source} cannot be {settings[name].value!r}",
                cause=error.message.rstrip("."),
                remedy="see `threadlets serve --help`",
                status=STATUS_USAGE,
            ) from None


def _option(panel: str, text: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel)


_APPLICATION = "Application"
_LISTENING = "Listening"
_PROCESSES = "Processes"
_TLS = "TLS"
_PROXIES = "Proxies in front"
_LOGS = "Logs and metrics"
_RESPONSES = "Responses"
_LIMITS = "Limits, and the status of the answer beyond"
_TIMES = "Times"
_WEBSOCKETS = "Websockets"
_FILES = "Static files"

# Typer makes the options of the parameters; the function reads them by their names from the context,
# where they have the names of `Config`'s fields.


def serve(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="A folder, or MODULE:ATTRIBUTE: an ASGI or WSGI application.",
            show_default=False,
        ),
    ] = None,
    *,
    interface: Annotated[
        str,
        _option(_APPLICATION, "What TARGET is; 'auto' finds out.", metavar="auto|asgi|wsgi|static"),
    ] = Config.interface,
    factory: Annotated[
        bool, _option(_APPLICATION, "TARGET is a function that returns the application.")
    ] = False,
    app_dir: Annotated[
        str, _option(_APPLICATION, "Put this folder first on sys.path.", metavar="FOLDER")
    ] = ".",
    lifespan: Annotated[
        str,
        _option(
            _APPLICATION,
            "'on' refuses to serve if the application's start-up raises; 'auto' serves it without.",
            metavar="auto|on|off",
        ),
    ] = Config.lifespan,
    root_path: Annotated[
        str,
        _option(
            _APPLICATION, "The path below which a proxy serves the application.", metavar="PATH"
        ),
    ] = Config.root_path,
    worker_threads: Annotated[
        str,
        _option(
            _APPLICATION,
            "What calls plain functions, such as the `def` endpoints of FastAPI: threadlets, or the threads "
            "of anyio and asyncio.",
            metavar="threadlets|anyio",
        ),
    ] = Config.worker_threads,
    debug: Annotated[
        bool, _option(_APPLICATION, "Switch on asyncio's debug mode in the loop.")
    ] = False,
    host: Annotated[str, _option(_LISTENING, "Name or address to listen on.")] = Config.host,
    port: Annotated[int, _option(_LISTENING, "TCP port; 0 takes a free one.")] = Config.port,
    uds: Annotated[
        str | None, _option(_LISTENING, "Listen on a Unix socket, not on TCP.", metavar="PATH")
    ] = Config.uds,
    fd: Annotated[
        int | None,
        _option(_LISTENING, "Listen on a socket that this process has inherited.", metavar="N"),
    ] = Config.fd,
    backlog: Annotated[
        int, _option(_LISTENING, "Connections that may wait to be accepted.", metavar="N")
    ] = Config.backlog,
    workers: Annotated[
        str | None,
        _option(
            _PROCESSES,
            "Worker processes, which a supervisor keeps running; 'auto' is one for each CPU that may be used. Without it, this process serves.",
            metavar="N|auto",
        ),
    ] = None,
    reload: Annotated[bool, _option(_PROCESSES, "Start again when files change.")] = False,
    reload_dir: Annotated[
        list[str] | None,
        _option(
            _PROCESSES, "A folder to watch, instead of the working directory.", metavar="FOLDER"
        ),
    ] = None,
    reload_include: Annotated[
        list[str] | None,
        _option(_PROCESSES, "Watch files of such names, too: '*.html'.", metavar="PATTERN"),
    ] = None,
    reload_exclude: Annotated[
        list[str] | None,
        _option(_PROCESSES, "Do not watch files or folders of such names.", metavar="PATTERN"),
    ] = None,
    ssl_certfile: Annotated[
        str | None,
        _option(_TLS, "The certificate, with those that it is signed by (PEM).", metavar="FILE"),
    ] = Config.ssl_certfile,
    ssl_keyfile: Annotated[
        str | None, _option(_TLS, "Its key, if that is not in the same file.", metavar="FILE")
    ] = Config.ssl_keyfile,
    ssl_keyfile_password: Annotated[
        str | None,
        _option(
            _TLS,
            "The password of the key; better given as THREADLETS_SSL_KEYFILE_PASSWORD.",
            metavar="TEXT",
        ),
    ] = Config.ssl_keyfile_password,
    ssl_ca_certs: Annotated[
        str | None,
        _option(_TLS, "Those who sign the certificates of clients (PEM).", metavar="FILE"),
    ] = Config.ssl_ca_certs,
    ssl_cert_reqs: Annotated[
        int | None,
        _option(
            _TLS,
            "Ask clients for certificates: 0 no, 1 they may have none, 2 they must. With --ssl-ca-certs 2, else 0.",
            metavar="0|1|2",
        ),
    ] = Config.ssl_cert_reqs,
    proxy_headers: Annotated[
        bool, _option(_PROXIES, "Believe X-Forwarded-For, X-Forwarded-Proto and Forwarded.")
    ] = Config.proxy_headers,
    forwarded_allow_ips: Annotated[
        str,
        _option(
            _PROXIES,
            "From these addresses and networks, separated by commas; 'unix': a Unix socket; '*': all.",
            metavar="LIST",
        ),
    ] = Config.forwarded_allow_ips,
    access_log: Annotated[bool, _option(_LOGS, "Log each request.")] = True,
    access_log_format: Annotated[
        str, _option(_LOGS, "As uvicorn does, or as a JSON object a line.", metavar="plain|json")
    ] = "plain",
    log_level: Annotated[
        str, _option(_LOGS, "The level of the log.", metavar="debug|info|warning|error")
    ] = Config.log_level,
    metrics: Annotated[
        str | None,
        _option(
            _LOGS,
            "Metrics for Prometheus, on a path or on a port of their own: sums over all workers.",
            metavar="/PATH|:PORT",
        ),
    ] = Config.metrics,
    header: Annotated[
        list[str] | None, _option(_RESPONSES, "A header for each response.", metavar="NAME:VALUE")
    ] = None,
    server_header: Annotated[
        bool, _option(_RESPONSES, "Send `server: threadlets`.")
    ] = Config.server_header,
    limit_concurrency: Annotated[
        int | None, _option(_LIMITS, "Requests in flight (503).", metavar="N")
    ] = Config.limit_concurrency,
    limit_connections: Annotated[
        int | None, _option(_LIMITS, "Connections; further ones wait.", metavar="N")
    ] = Config.limit_connections,
    limit_request_line: Annotated[
        int, _option(_LIMITS, "The request line (414).", metavar="BYTES")
    ] = Config.limit_request_line,
    limit_request_headers: Annotated[
        int, _option(_LIMITS, "Number of headers (431).", metavar="N")
    ] = Config.limit_request_headers,
    limit_request_head: Annotated[
        int, _option(_LIMITS, "Request line and headers (431).", metavar="BYTES")
    ] = Config.limit_request_head,
    limit_request_body: Annotated[
        int | None, _option(_LIMITS, "A body (413).", metavar="BYTES")
    ] = Config.limit_request_body,
    send_high_water: Annotated[
        int,
        _option(
            _LIMITS, "Unsent bytes of a response at which the application waits.", metavar="BYTES"
        ),
    ] = Config.send_high_water,
    timeout_keep_alive: Annotated[
        float, _option(_TIMES, "Close idle connections.", metavar="SECONDS")
    ] = Config.timeout_keep_alive,
    timeout_request_head: Annotated[
        float, _option(_TIMES, "For request line and headers (408).", metavar="SECONDS")
    ] = Config.timeout_request_head,
    timeout_request_body: Annotated[
        float, _option(_TIMES, "Between two parts of a body (408).", metavar="SECONDS")
    ] = Config.timeout_request_body,
    timeout_response: Annotated[
        float,
        _option(_TIMES, "Drop clients that take nothing of their response.", metavar="SECONDS"),
    ] = Config.timeout_response,
    timeout_graceful_shutdown: Annotated[
        float, _option(_TIMES, "For requests in flight to finish after a stop.", metavar="SECONDS")
    ] = Config.timeout_graceful_shutdown,
    ws_max_size: Annotated[
        int, _option(_WEBSOCKETS, "The longest message.", metavar="BYTES")
    ] = Config.ws_max_size,
    ws_ping_interval: Annotated[
        float, _option(_WEBSOCKETS, "Between two pings; 0: none.", metavar="SECONDS")
    ] = Config.ws_ping_interval,
    ws_ping_timeout: Annotated[
        float, _option(_WEBSOCKETS, "For the answer to a ping; 0: for ever.", metavar="SECONDS")
    ] = Config.ws_ping_timeout,
    ws_per_message_deflate: Annotated[
        bool, _option(_WEBSOCKETS, "Compress messages for clients that can.")
    ] = Config.ws_per_message_deflate,
    index: Annotated[
        bool, _option(_FILES, "Answer the path of a folder with its index.html.")
    ] = Config.index,
    spa: Annotated[
        str | None,
        _option(_FILES, "The file that answers paths for which there is none.", metavar="FILE"),
    ] = Config.spa,
    listing: Annotated[
        bool, _option(_FILES, "List the files of folders that have no index.")
    ] = Config.listing,
    dot_files: Annotated[
        bool, _option(_FILES, "Serve files whose names begin with a dot.")
    ] = Config.dot_files,
    precompressed: Annotated[
        bool, _option(_FILES, "Send the .br, .zst or .gz beside a file.")
    ] = Config.precompressed,
    cache_control: Annotated[
        str | None, _option(_FILES, "The Cache-Control header of files.", metavar="TEXT")
    ] = Config.cache_control,
) -> None:
    """Serve a folder, an ASGI application or a WSGI application over HTTP.

    SIGINT (Ctrl-C) and SIGTERM stop it gracefully: it accepts no more
    connections, requests in flight may finish within the graceful timeout, and
    the exit status is 0. A second Ctrl-C drops the remaining connections. With
    --workers, SIGHUP replaces the workers by new ones, and no request is lost.

    Each option can also be given as a variable, THREADLETS_PORT say, or as a
    key of the table \\[tool.threadlets.serve] in the pyproject.toml of the
    working directory. The command line comes first, then the variable.
    """
    raise SystemExit(serve_as_asked(context))
