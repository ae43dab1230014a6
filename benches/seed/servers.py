"""The command line of each server: as its users start it, without an access log, with a wide backlog."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from benches.placement import python
from benches.seed.applications import SIZES
from benches.seed.plan import BACKLOG, KEEP_ALIVE_S, PORT

if TYPE_CHECKING:
    from pathlib import Path

    from benches.seed.plan import Plan

_HOST = "127.0.0.1"
#: Threads of gunicorn's gthread worker: the documentation advises two to four for each CPU.
_N_THREADS = 4

_NGINX = """\
{user}
daemon off;
worker_processes {n_workers};
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections {n_connections}; }}
http {{
    access_log off;
    sendfile on;
    types {{ text/plain txt; }}
    keepalive_timeout {keep_alive_s};
    keepalive_requests 100000000;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen {host}:{port} backlog={backlog}{reuseport};
        root {folder}/files;
    }}
}}
"""
_LIGHTTPD = """\
server.document-root = "{folder}/files"
server.bind = "{host}"
server.port = {port}
server.listen-backlog = {backlog}
server.max-fds = {n_files}
server.max-connections = {n_connections}
server.max-keep-alive-requests = 65535
server.max-keep-alive-idle = {keep_alive_s}
server.max-write-idle = {keep_alive_s}
server.max-worker = {n_workers}
mimetype.assign = ( ".txt" => "text/plain" )
"""


def command(plan: Plan, folder: Path) -> list[str]:
    """Return the command line of the plan's server; write what it serves, and its configuration."""
    files = folder / "files"
    files.mkdir(exist_ok=True)
    # Root's nginx gives its workers another user.
    folder.chmod(0o755)
    for name, n_bytes in SIZES.items():
        (files / f"{name}.txt").write_bytes(b"x" * n_bytes)
    if plan.peer in ("nginx", "lighttpd"):
        return _of_files(plan, folder)
    if plan.peer in ("threadlets", "async-def", "one-worker"):
        return _ours(plan, files)
    return _of_applications(plan)


def target(plan: Plan) -> str:
    """Return the application as `module:attribute`."""
    if plan.kind == "fastapi":
        is_coroutine = plan.peer in ("async-def", "uvicorn-async-def")
        return f"benches.seed.fastapi_applications:{'coroutine' if is_coroutine else 'plain'}"
    name = {"computing": "asgi_computing"}.get(plan.kind, f"{plan.kind}_{plan.size}")
    if plan.peer == "granian-rsgi":
        name = f"rsgi_{plan.size}"
    return f"benches.seed.applications:{name}"


def _of_files(plan: Plan, folder: Path) -> list[str]:
    n_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    template = {"nginx": _NGINX, "lighttpd": _LIGHTTPD}[plan.peer]
    text = template.format(
        user="user root;" if os.geteuid() == 0 else "",
        folder=folder,
        host=_HOST,
        port=PORT,
        backlog=BACKLOG,
        keep_alive_s=KEEP_ALIVE_S,
        n_files=n_files,
        n_connections=min(BACKLOG, n_files - 100),
        # lighttpd's 0 is one process, without a supervisor.
        n_workers=plan.n_workers if plan.peer == "nginx" or plan.n_workers > 1 else 0,
        reuseport=" reuseport" if plan.n_workers > 1 else "",
    )
    config = folder / f"{plan.peer}.conf"
    config.write_text(text)
    if plan.peer == "lighttpd":
        return ["lighttpd", "-D", "-f", str(config)]
    return ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(config)]


def _of_applications(plan: Plan) -> list[str]:
    workers = ["--workers", str(plan.n_workers)]
    where = ["--host", _HOST, "--port", str(PORT), "--backlog", str(BACKLOG)]
    if plan.peer.startswith("granian-"):
        interface = plan.peer.removeprefix("granian-")
        options = ["--interface", interface, "--log-level", "warning", "--loop", "uvloop"]
        return [*python("granian"), *where, *workers, *options, target(plan)]
    if plan.peer.startswith("uvicorn"):
        options = ["--loop", "uvloop", "--http", "httptools", "--lifespan", "off"]
        options += ["--no-access-log", "--log-level", "warning"]
        options += ["--timeout-keep-alive", str(KEEP_ALIVE_S)]
        return [*python("uvicorn"), *where, *workers, *options, target(plan)]
    if plan.peer.startswith("gunicorn-"):
        options = ["--worker-class", plan.peer.removeprefix("gunicorn-"), "--log-level", "warning"]
        options += ["--worker-connections", str(BACKLOG), "--keep-alive", str(KEEP_ALIVE_S)]
        options += ["--bind", f"{_HOST}:{PORT}", "--backlog", str(BACKLOG)]
        if plan.peer == "gunicorn-gthread":
            options += ["--threads", str(_N_THREADS)]
        return [*python("gunicorn"), *workers, *options, target(plan)]
    return python(
        "benches.seed.launch", plan.peer, target(plan).partition(":")[2], str(PORT), str(BACKLOG)
    )


def _ours(plan: Plan, files: Path) -> list[str]:
    n_workers = 1 if plan.peer == "one-worker" else plan.n_workers
    served = str(files) if plan.kind == "static" else target(plan)
    argv = [*python("threadlets", "serve", served), "--host", _HOST, "--port", str(PORT)]
    argv += ["--no-access-log", "--log-level", "warning", "--backlog", str(BACKLOG)]
    argv += ["--timeout-keep-alive", str(KEEP_ALIVE_S)]
    argv += ["--interface", plan.kind if plan.kind in ("static", "wsgi") else "asgi"]
    # One worker is served by the process itself, without a supervisor.
    return [*argv, "--workers", str(n_workers)] if n_workers > 1 else argv
