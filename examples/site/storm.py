"""Very many clients at once, each request on a connection of its own: our server, and others beside it.

The same stylesheet is asked for everywhere. The load is ApacheBench, or where it is not installed a load
of our own, which itself takes more of a CPU than the server does.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import threadlets

_ROOT = Path(__file__).parents[2]
_FOLDER = Path(__file__).parent / "static"
_APPLICATION = "examples.site.app:app"
_PATH = "/style.css"
_HOST = "127.0.0.1"
_BACKLOG = 16384
_START_TIMEOUT_S = 30.0
#: The time that one answer, and a whole storm, may take.
_ANSWER_TIMEOUT_S, _STORM_TIMEOUT_S = 60, 300
_N_WARMUP, _N_WARMUP_CLIENTS = 500, 10

_NGINX = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections {n_connections}; }}
http {{
    access_log off;
    sendfile on;
    types {{ text/css css; }}
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen {host}:{port} backlog={backlog};
        root {files};
    }}
}}
"""


class StormFailed(Exception):
    """A server did not start, or the load did not come to an end."""


@dataclass(frozen=True)
class Storm:
    """How many requests, and how many of them at a time."""

    n_clients: int
    n_requests: int


@dataclass(frozen=True)
class Result:
    """What one server did; the CPU time is the server's, not the load's."""

    server: str
    requests_per_s: float
    cpu_us_per_request: float
    n_failed: int


@dataclass(frozen=True)
class Server:
    """A server that can take part, or the reason why it cannot."""

    name: str
    argv: tuple[str, ...] = ()
    missing: str | None = None
    #: Whether the demonstration fails with it.
    is_ours: bool = False

    def command(self, port: int, folder: Path) -> list[str]:
        """Return the command line for a port; the folder is for the server's own files."""
        if self.name.startswith("nginx"):
            config = folder / "nginx.conf"
            config.write_text(
                _NGINX.format(
                    folder=folder,
                    host=_HOST,
                    port=port,
                    backlog=_BACKLOG,
                    files=_FOLDER,
                    n_connections=_BACKLOG,
                )
            )
            return [*self.argv, "-e", "stderr", "-p", str(folder), "-c", str(config)]
        return [*self.argv, "--host", _HOST, "--port", str(port), "--backlog", str(_BACKLOG)]


def contenders() -> list[Server]:
    """Return our server first, then those beside it, the missing ones too."""
    python = sys.executable
    quiet = ("--no-access-log", "--log-level", "warning")
    ours = (python, "-m", "threadlets", "serve", *quiet)
    servers = [
        Server("threadlets, the site", (*ours, _APPLICATION), is_ours=True),
        Server("threadlets, its folder", (*ours, str(_FOLDER)), is_ours=True),
    ]
    nginx = shutil.which("nginx")
    missing = None if nginx else "apt install nginx"
    servers.append(Server("nginx, the folder", (nginx or "nginx",), missing))
    uvicorn = (python, "-m", "uvicorn", _APPLICATION, *quiet)
    found = [name for name in ("uvicorn", "uvloop", "httptools") if importlib.util.find_spec(name)]
    missing = None if len(found) == 3 else "pip install uvicorn uvloop httptools"
    servers.append(
        Server("uvicorn", (*uvicorn, "--loop", "uvloop", "--http", "httptools"), missing)
    )
    return servers


def load_name() -> str:
    """Return what makes the load here."""
    return "ab" if shutil.which("ab") else "our own load (apt install apache2-utils for ab)"


def n_waiting_max() -> int:
    """Return how many connections the kernel lets wait to be accepted, whatever a server asks for."""
    return min(_BACKLOG, int(Path("/proc/sys/net/core/somaxconn").read_text()))


def blow(server: Server, storm: Storm) -> Result:
    """Start the server, load it, and stop it. Where there are two CPUs, the load has another one.

    :raises StormFailed: the server did not start, or the load did not come to an end.
    """
    cpus = sorted(os.sched_getaffinity(0))
    server_cpus, load_cpus = {cpus[0]}, set(cpus[1:]) or {cpus[0]}
    with (
        tempfile.TemporaryDirectory(prefix="storm-") as folder,
        _running(server, Path(folder), server_cpus) as (pid, port),
        _on(load_cpus),
    ):
        _load(port, Storm(_N_WARMUP_CLIENTS, _N_WARMUP))
        cpu_s = _cpu_s(pid)
        n_failed, rate = _load(port, storm)
        cpu_s = _cpu_s(pid) - cpu_s
    return Result(server.name, rate, cpu_s * 1e6 / storm.n_requests, n_failed)


@contextlib.contextmanager
def _running(server: Server, folder: Path, cpus: set[int]) -> Iterator[tuple[int, int]]:
    port = _free_port()
    log = folder / "log"
    with log.open("w") as output, _on(cpus):
        process = subprocess.Popen(
            server.command(port, folder),
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        until_s = time.monotonic() + _START_TIMEOUT_S
        while not _is_listening(port):
            if process.poll() is not None or time.monotonic() > until_s:
                raise StormFailed(f"{server.name} did not start\n{log.read_text()[-1000:]}")
            time.sleep(0.05)
        yield process.pid, port
    finally:
        process.kill()
        process.wait()


def _load(port: int, storm: Storm) -> tuple[int, float]:
    """Return how many requests failed, and how many were answered in a second."""
    ab = shutil.which("ab")
    if ab is None:
        return threadlets.run(_ask_all(port, storm))
    argv = [ab, "-q", "-r", "-s", str(_ANSWER_TIMEOUT_S), "-c", str(storm.n_clients)]
    argv += ["-n", str(storm.n_requests), f"http://{_HOST}:{port}{_PATH}"]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=_STORM_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise StormFailed(f"ab ran for more than {_STORM_TIMEOUT_S} s") from None
    if done.returncode:
        raise StormFailed(f"ab ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return figures_of_ab(done.stdout)


def figures_of_ab(printed: str) -> tuple[int, float]:
    """Return how many requests failed or were refused, and how many were answered in a second."""
    found = dict(re.findall(r"^([A-Z][\w -]+):\s+([\d.]+)", printed, re.MULTILINE))
    try:
        n_failed = int(found["Failed requests"]) + int(found.get("Non-2xx responses", 0))
        return n_failed, float(found["Requests per second"])
    except KeyError:
        raise StormFailed(f"ab printed no figures: {printed.strip()[-500:]}") from None


async def _ask_all(port: int, storm: Storm) -> tuple[int, float]:
    numbers = iter(range(storm.n_requests))
    n_failed = 0

    async def client() -> None:
        nonlocal n_failed
        for _ in numbers:
            n_failed += not await _ask(port)

    began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(storm.n_clients):
            group.create_task(client())
    return n_failed, storm.n_requests / (time.monotonic() - began_s)


async def _ask(port: int) -> bool:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            transport, asker = await loop.create_connection(_Asker, _HOST, port)
            try:
                return await asker.is_answered
            finally:
                transport.close()
    except OSError:
        # asyncio.timeout raises TimeoutError, an OSError as well.
        return False


class _Asker(asyncio.Protocol):
    """Asks once; the answer is complete when the server closes the connection."""

    def __init__(self) -> None:
        self.is_answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._begin = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET {_PATH} HTTP/1.0\r\nHost: {_HOST}\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._begin = self._begin or data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_answered.done():
            # The status is in the first packet: "HTTP/1.1 200 OK".
            self.is_answered.set_result(exc is None and self._begin[8:13] == b" 200 ")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=5):
        return True
    return False


def _cpu_s(pid: int) -> float:
    # Split behind the name, which may contain spaces: utime and stime are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _on(cpus: set[int]) -> Iterator[None]:
    """Stay on these CPUs for the length of the block, with what is started in it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
