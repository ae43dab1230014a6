"""`Config`: how a server listens, what it allows and what it logs. Knows nothing of sockets.

Every field is checked when a `Config` is made, so that nothing else has to.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from threadlets._public import set_module
from threadlets.exceptions import ConfigError
from threadlets.http._proxy import TrustedProxies

Interface: TypeAlias = Literal["auto", "asgi", "wsgi", "static"]

PORT_MAX = 65535
#: Fields that only folders have a use for.
FILES_FIELDS = ("index", "spa", "listing", "dot_files", "precompressed", "cache_control")
LOG_LEVELS = ("debug", "info", "warning", "error")


@set_module("threadlets.http")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How a server listens, what it allows and what it logs.

    Fields that uvicorn has, too, have its names. Times are seconds, sizes bytes. A limit of None is no
    limit.

    Raises:
        ConfigError: a field has a value that it cannot have.
    """

    # What is served: found out by inspection unless given.
    interface: Interface = "auto"
    #: "on" refuses to serve an application whose lifespan raises; "auto" takes that for "has none".
    lifespan: Literal["auto", "on", "off"] = "auto"
    #: The path below which a proxy has put the application: `root_path` of its scope.
    root_path: str = ""
    #: "threadlets" calls what anyio would call in worker threads, such as the `def` endpoints of
    #: Starlette and FastAPI, as threadlets.
    worker_threads: Literal["threadlets", "anyio"] = "threadlets"

    # Where it listens.
    host: str = "127.0.0.1"
    #: 0 takes a free one.
    port: int = 8000
    #: The path of a Unix socket, in place of host and port.
    uds: str | None = None
    #: A descriptor that is a bound stream socket, in place of host and port.
    fd: int | None = None
    #: Connections that may wait to be accepted; the kernel allows at most net.core.somaxconn.
    backlog: int = 2048
    #: PEM files. Certificates of clients are checked against `ssl_ca_certs`.
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None
    #: Whether clients are asked for certificates: 0 they are not, 1 they may have none, 2 they must have one.
    #: None is 2 with `ssl_ca_certs`, and 0 without.
    ssl_cert_reqs: int | None = None

    # Proxies in front.
    #: Believe X-Forwarded-For, X-Forwarded-Proto and Forwarded from `forwarded_allow_ips`.
    proxy_headers: bool = False
    #: Addresses and networks, separated by commas; "unix" are clients of a Unix socket, "*" are all.
    forwarded_allow_ips: str = "127.0.0.1"

    # Responses.
    server_header: bool = True
    #: Headers that each response gets, in addition to its own.
    headers: tuple[tuple[str, str], ...] = ()

    # Logs and metrics.
    access_log: Literal["plain", "json"] | None = "plain"
    log_level: str = "info"
    #: Metrics in Prometheus' text format, on a path ("/metrics") or on a port of their own (":9100").
    metrics: str | None = None

    # Limits. Beyond them there is an answer with the status in parentheses.
    #: Requests in flight (503).
    limit_concurrency: int | None = None
    #: Connections; further ones wait in the backlog.
    limit_connections: int | None = None
    #: Bytes of the request line (414).
    limit_request_line: int = 16_384
    #: Number of headers (431).
    limit_request_headers: int = 100
    #: Bytes of the request line and of all headers (431).
    limit_request_head: int = 65_536
    #: Bytes of a body (413).
    limit_request_body: int | None = None
    #: Bytes of a response that are not sent yet, at which `send` waits.
    send_high_water: int = 65_536

    # Times.
    #: An idle connection is closed.
    timeout_keep_alive: float = 5.0
    #: From the first byte of a request until its headers are complete (408).
    timeout_request_head: float = 30.0
    #: Between two parts of a body (408).
    timeout_request_body: float = 60.0
    #: A client that takes nothing of its response for so long is dropped.
    timeout_response: float = 60.0
    #: For requests in flight, from a stop until they are cancelled.
    timeout_graceful_shutdown: float = 10.0

    # Websockets.
    #: Bytes of a message; longer ones close the websocket with code 1009.
    ws_max_size: int = 16 * 1024 * 1024
    #: A client that sends nothing for so long is pinged; 0 sends no pings.
    ws_ping_interval: float = 20.0
    #: A client that sends nothing for so long after a ping has left; 0 waits for ever.
    ws_ping_timeout: float = 20.0
    ws_per_message_deflate: bool = True

    # Static files.
    #: Answer the path of a folder with its index.html.
    index: bool = True
    #: The file that answers paths for which there is none, relative to the folder.
    spa: str | None = None
    #: Answer the path of a folder without an index with a list of its files.
    listing: bool = False
    #: Serve files whose names begin with a dot.
    dot_files: bool = False
    #: Send the `.br`, `.zst` or `.gz` beside a file to clients that accept it.
    precompressed: bool = True
    #: The Cache-Control header of files.
    cache_control: str | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if (refusal := check(value)) is not None:
                raise ConfigError(name, value, *refusal)
        object.__setattr__(self, "headers", tuple((name, value) for name, value in self.headers))
        for name, (is_refused, cause, remedy) in _RELATIONS.items():
            if is_refused(self):
                raise ConfigError(name, getattr(self, name), cause, remedy)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as what JSON can hold; `Config(**fields)` makes the same again."""
        return dataclasses.asdict(self)


# -- checks ----------------------------------------------------------------------------------------

#: Why a value cannot be, and what can.
_Refusal: TypeAlias = tuple[str, str]
_Check: TypeAlias = Callable[[Any], _Refusal | None]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_BYTES_MAX = 2**48


def _text(value: Any) -> _Refusal | None:
    if isinstance(value, str) and "\0" not in value:
        return None
    return "it must be text without NUL", "give a str"


def _filled(value: Any) -> _Refusal | None:
    return _text(value) or (("it is empty", "leave it out, or give a value") if not value else None)


def _flag(value: Any) -> _Refusal | None:
    return None if isinstance(value, bool) else ("it is on or off", "use True or False")


def _one_of(*allowed: str | None) -> _Check:
    names = ", ".join(repr(it) if it is None else it for it in allowed)
    return lambda value: None if value in allowed else (f"it is one of {names}", "choose one")


def _whole(at_least: int, at_most: int, what: str) -> _Check:
    def check(value: Any) -> _Refusal | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return f"{what} are whole numbers", f"use {at_least} or more"
        if not at_least <= value <= at_most:
            return (
                f"{what} lie between {at_least} and {at_most}",
                f"use {at_least} or more" if value < at_least else f"use {at_most} or less",
            )
        return None

    return check


def _seconds(value: Any) -> _Refusal | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value >= 0:
        return None
    return "times are seconds, 0 or more", "use a number of seconds"


def _seconds_above_zero(value: Any) -> _Refusal | None:
    return _seconds(value) or (
        ("nothing would arrive in time", "use a number of seconds above 0") if not value else None
    )


def _port(value: Any) -> _Refusal | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= PORT_MAX:
        return None
    return f"ports lie between 0 and {PORT_MAX}; 0 takes a free one", "choose another port"


def _optional(check: _Check) -> _Check:
    return lambda value: None if value is None else check(value)


def _root_path(value: Any) -> _Refusal | None:
    if (refusal := _text(value)) is not None:
        return refusal
    if value and (not value.startswith("/") or value.endswith("/")):
        return "it begins with a slash and ends without one", "use '/api', say"
    return None


def _headers(value: Any) -> _Refusal | None:
    try:
        pairs = [(name, text) for name, text in value]
    except (TypeError, ValueError):
        return "it must hold pairs of a name and a value", "use (('x-served-by', 'a'),), say"
    for name, text in pairs:
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            return f"{name!r} is no name of a header", "use letters, digits and hyphens"
        if not isinstance(text, str) or not _HEADER_VALUE.fullmatch(text):
            return f"the value of {name} has characters that no header can have", "leave them out"
        if not text.isascii():
            return f"the value of {name} is not ASCII", "encode it"
    return None


def _proxies(value: Any) -> _Refusal | None:
    if (refusal := _text(value)) is not None:
        return refusal
    try:
        TrustedProxies(value)
    except ValueError as error:
        return str(error), "use '127.0.0.1,10.0.0.0/8', say, or 'unix', or '*'"
    return None


def _certificate_mode(value: Any) -> _Refusal | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2:
        return None
    return "it is 0 (none), 1 (optional) or 2 (required)", "choose one of them"


def _header_value(value: Any) -> _Refusal | None:
    return _headers([("cache-control", value)])


def _metrics_place(value: Any) -> _Refusal | None:
    remedy = "use '/metrics' or ':9100', say"
    if not isinstance(value, str):
        return "it is a path or a port", remedy
    if value.startswith(":"):
        is_port = value[1:].isascii() and value[1:].isdigit() and 1 <= int(value[1:]) <= PORT_MAX
        return None if is_port else (f"ports lie between 1 and {PORT_MAX}", remedy)
    if value.startswith("/") and not re.search(r"[?#\s\0]", value):
        return None
    return "a path begins with a slash, a port with a colon", remedy


def _spa(value: Any) -> _Refusal | None:
    if (refusal := _filled(value)) is not None:
        return refusal
    if value.startswith("/") or ".." in value.split("/"):
        return "the file lies in the folder that is served", "use its path within the folder"
    return None


_COUNT = _whole(1, 2**31 - 1, "numbers")
_BYTES = _whole(1, _BYTES_MAX, "bytes")

_CHECKS: Mapping[str, _Check] = {
    "interface": _one_of("auto", "asgi", "wsgi", "static"),
    "lifespan": _one_of("auto", "on", "off"),
    "root_path": _root_path,
    "worker_threads": _one_of("threadlets", "anyio"),
    "host": _text,
    "port": _port,
    "uds": _optional(_filled),
    "fd": _optional(_whole(0, 2**31 - 1, "descriptors")),
    "backlog": _whole(1, 2**31 - 1, "backlogs"),
    "ssl_certfile": _optional(_filled),
    "ssl_keyfile": _optional(_filled),
    "ssl_keyfile_password": _optional(_text),
    "ssl_ca_certs": _optional(_filled),
    "ssl_cert_reqs": _optional(_certificate_mode),
    "proxy_headers": _flag,
    "forwarded_allow_ips": _proxies,
    "server_header": _flag,
    "headers": _headers,
    "access_log": _one_of("plain", "json", None),
    "log_level": _one_of(*LOG_LEVELS),
    "metrics": _optional(_metrics_place),
    "limit_concurrency": _optional(_COUNT),
    "limit_connections": _optional(_COUNT),
    "limit_request_line": _whole(64, 2**24, "bytes"),
    "limit_request_headers": _whole(1, 2**15 - 1, "numbers"),
    "limit_request_head": _whole(256, 2**24, "bytes"),
    "limit_request_body": _optional(_whole(0, _BYTES_MAX, "bytes")),
    "send_high_water": _BYTES,
    "timeout_keep_alive": _seconds,
    "timeout_request_head": _seconds_above_zero,
    "timeout_request_body": _seconds_above_zero,
    "timeout_response": _seconds_above_zero,
    "timeout_graceful_shutdown": _seconds,
    "ws_max_size": _BYTES,
    "ws_ping_interval": _seconds,
    "ws_ping_timeout": _seconds,
    "ws_per_message_deflate": _flag,
    "index": _flag,
    "spa": _optional(_spa),
    "listing": _flag,
    "dot_files": _flag,
    "precompressed": _flag,
    "cache_control": _optional(_header_value),
}

#: What one field asks of another: whether it is refused, why, and what to do.
_RELATIONS: Mapping[str, tuple[Callable[[Config], bool], str, str]] = {
    "fd": (
        lambda it: it.fd is not None and it.uds is not None,
        "a server listens on one of fd and uds",
        "leave one of them out",
    ),
    "ssl_keyfile": (
        lambda it: it.ssl_keyfile is not None and it.ssl_certfile is None,
        "a key is for a certificate, and there is none",
        "give ssl_certfile, too",
    ),
    "ssl_keyfile_password": (
        lambda it: it.ssl_keyfile_password is not None and it.ssl_certfile is None,
        "a password is for the key of a certificate, and there is none",
        "give ssl_certfile, too",
    ),
    "ssl_ca_certs": (
        lambda it: it.ssl_ca_certs is not None and it.ssl_certfile is None,
        "clients show certificates over TLS only, for which the server needs its own",
        "give ssl_certfile, too",
    ),
    "ssl_cert_reqs": (
        lambda it: bool(it.ssl_cert_reqs) and it.ssl_ca_certs is None,
        "certificates of clients are checked against those who issue them, and there are none",
        "give ssl_ca_certs, too",
    ),
    "limit_request_line": (
        lambda it: it.limit_request_line > it.limit_request_head,
        "the request line is a part of the head, which has a lower limit",
        "use limit_request_head or less",
    ),
}
