"""Starts the servers that the tables are tried on: ours, and others as references.

Others are chosen by the variable `HTTP_SERVER`: nginx, uvicorn, granian, hypercorn, or HOST:PORT for one that runs.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from messages import Address, Closed, Connection, NotHttp
from waiting import wait_until

OURS = "threadlets"
KINDS = (OURS, "nginx", "uvicorn", "granian", "hypercorn")
# What each speaks beside HTTP/1.1; a new protocol of ours is tested as soon as it stands here.
SPEAKS: dict[str, frozenset[str]] = {
    OURS: frozenset({"HTTP/2", "websockets"}),
    "nginx": frozenset({"HTTP/2"}),
    "uvicorn": frozenset({"websockets"}),
    "granian": frozenset({"HTTP/2", "websockets"}),
    "hypercorn": frozenset({"HTTP/2", "websockets"}),
}
_HERE = Path(__file__).parent
_STOP_S = 20.0


@dataclass
class Server:
    """A server that runs: where it listens, and its processes."""

    kind: str
    address: Address
    process: subprocess.Popen[bytes] | None = None
    folder: Path | None = None
    log: Path | None = None
    tls: Path | None = field(default=None, kw_only=True)

    @property
    def is_ours(self) -> bool:
        """Whether it is the server that this project has."""
        return self.kind == OURS

    def pids(self) -> list[int]:
        """Return the process that was started and its children."""
        if self.process is None:
            return []
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        children = [(task / "children").read_text().split() for task in tasks]
        return [self.process.pid, *(int(pid) for listed in children for pid in listed)]

    def n_descriptors(self) -> int:
        """Return how many descriptors its processes have."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())

    def n_sockets(self) -> int:
        """Return how many sockets its processes have."""
        n_sockets = 0
        for pid in self.pids():
            folder = f"/proc/{pid}/fd"
            for name in os.listdir(folder):
                try:
                    n_sockets += os.readlink(f"{folder}/{name}").startswith("socket:")
                except FileNotFoundError:
                    pass
        return n_sockets

    def rss_bytes(self) -> int:
        """Return the resident memory of its processes."""
        n_pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids()]
        return sum(n_pages) * os.sysconf("SC_PAGE_SIZE")

    def answers(self) -> bool:
        """Whether it answers a request on a connection of its own."""
        try:
            with Connection(self.address) as connection:
                connection.send(b"GET /alive HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                return connection.read_response().status == 200
        except (OSError, Closed, NotHttp):
            return False

    def log_text(self) -> str:
        """Return what it has printed so far."""
        return self.log.read_text(errors="replace") if self.log is not None else ""

    def client_context(self) -> ssl.SSLContext | None:
        """Return what a client needs to trust it; None if it has no TLS."""
        if self.tls is None:
            return None
        return ssl.create_default_context(cafile=str(self.tls / "cert.pem"))

    def stop(self) -> None:
        """Stop it, by force after some time."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def chosen_kind() -> str:
    """Return the kind of server that the tests run against."""
    return os.environ.get("HTTP_SERVER", OURS)


def speaks(protocol: str) -> bool:
    """Whether the chosen server speaks a protocol; one that is given by its address is asked."""
    kind = chosen_kind()
    return kind not in SPEAKS or protocol in SPEAKS[kind]


def usual_options(kind: str) -> tuple[str, ...]:
    """Return the options of tables: a connection that waits for a request for which there was none ends soon."""
    return ("--timeout-keep-alive", "1") if kind in (OURS, "uvicorn") else ()


def missing(kind: str) -> str | None:
    """Return why a kind of server cannot be started here, or None."""
    if ":" in kind or kind == OURS:
        return None
    if shutil.which(kind, path=_path()) is None:
        return f"{kind} is not installed"
    return None


def start(kind: str, *arguments: str, app: str = "echo_app:app", tls: Path | None = None) -> Server:
    """Start a server of this kind with more arguments, and wait until it listens.

    For nginx, `arguments` are directives of its `server` block. `tls` is a folder with `cert.pem` and `key.pem`.
    """
    if ":" in kind:
        host, _, port = kind.rpartition(":")
        return Server(kind, (host, int(port)))
    folder = Path(tempfile.mkdtemp(prefix="http-server-"))
    log = folder / "log"
    # Another process may take a port that was free: ours says which one it has got.
    port = 0 if kind == OURS else _free_port()
    command = _COMMANDS[kind](app, port, folder, arguments, tls)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=_HERE, stdout=output, stderr=output, env=_environment()
        )
    server = Server(kind, ("127.0.0.1", port), process, folder, log, tls=tls)

    def listens() -> bool:
        assert process.poll() is None, server.log_text()
        if kind == OURS:
            said = re.search(r"https?://127\.0\.0\.1:(\d+)", server.log_text())
            if said is None:
                return False
            server.address = ("127.0.0.1", int(said[1]))
        try:
            Connection(server.address).socket.close()
        except ConnectionRefusedError:
            return False
        return True

    try:
        wait_until(listens)
    except BaseException:
        server.stop()
        raise
    return server


def _environment() -> Mapping[str, str]:
    # Not the pytest's own settings: a server must not see warnings as errors.
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(_HERE), *sys.path]), "PATH": _path()}


def _path() -> str:
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin"


def _free_port() -> int:
    """Return a port that nothing listens on; granian and nginx cannot say which one they took."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Arguments = tuple[str, ...]


def _threadlets(
    app: str, port: int, folder: Path, arguments: Arguments, tls: Path | None
) -> list[str]:
    secure = _pem(tls, "--ssl-certfile", "--ssl-keyfile")
    return [
        *(sys.executable, "-m", "threadlets", "serve", app, "--port", str(port)),
        *("--no-access-log", *secure, *arguments),
    ]


def _uvicorn(
    app: str, port: int, folder: Path, arguments: Arguments, tls: Path | None
) -> list[str]:
    secure = _pem(tls, "--ssl-certfile", "--ssl-keyfile")
    return [
        *(sys.executable, "-m", "uvicorn", app, "--port", str(port), "--http", "httptools"),
        *("--no-access-log", "--no-proxy-headers", *secure, *arguments),
    ]


def _granian(
    app: str, port: int, folder: Path, arguments: Arguments, tls: Path | None
) -> list[str]:
    secure = _pem(tls, "--ssl-certificate", "--ssl-keyfile")
    return ["granian", "--interface", "asgi", "--port", str(port), *secure, *arguments, app]


def _hypercorn(
    app: str, port: int, folder: Path, arguments: Arguments, tls: Path | None
) -> list[str]:
    secure = _pem(tls, "--certfile", "--keyfile")
    return ["hypercorn", "--bind", f"127.0.0.1:{port}", *secure, *arguments, app]


def _nginx(app: str, port: int, folder: Path, arguments: Arguments, tls: Path | None) -> list[str]:
    # The outer server reads each body whole, since it passes it on; the inner one says what came of it.
    listen = f"127.0.0.1:{port}"
    if tls is not None:
        listen += (
            f" ssl http2;\n ssl_certificate {tls}/cert.pem;\n ssl_certificate_key {tls}/key.pem"
        )
    directives = "".join(f"        {it};\n" for it in arguments)
    (folder / "nginx.conf").write_text(f"""
daemon off;
user root;
pid {folder}/pid;
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {listen};
{directives}
        location / {{ proxy_pass http://unix:{folder}/inner; proxy_set_header Host $http_host; }}
    }}
    server {{
        listen unix:{folder}/inner;
        location / {{ return 200 "$request_method $request_uri $content_length-\\n"; }}
    }}
}}
""")
    return ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]


def _pem(tls: Path | None, certificate: str, key: str) -> list[str]:
    if tls is None:
        return []
    return [certificate, str(tls / "cert.pem"), key, str(tls / "key.pem")]


_COMMANDS = {
    OURS: _threadlets,
    "uvicorn": _uvicorn,
    "granian": _granian,
    "hypercorn": _hypercorn,
    "nginx": _nginx,
}

# Used by the script that compares, to name the version.
_VERSION = re.compile(r"\d+(\.\d+)+")


def version(kind: str) -> str:
    """Return the version of a server, or an empty string."""
    command = [kind, "-v"] if kind == "nginx" else [sys.executable, "-m", kind, "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, env=_environment())
    found = _VERSION.search(printed.stdout + printed.stderr)
    return found.group() if found else ""


#: Starts a server, or returns the one that was started alike.
StartServer = Callable[..., Server]
