"""Dossiers of the standard library's modules: ``python -m examples.scopes.service [--port 8001]``.

A dossier has four parts, made at the same time in one scope with a deadline: a query in SQLite, a
file, and the answers of two slow services. Each part is sent as a line of JSON as soon as it is
ready. When the client goes away, all parts are cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib.util
import json
import os
import resource
import socket
import sys
from collections.abc import Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any

import threadlets

from ..site.catalogue import default_path, open_catalogue
from .answer import Answer
from .database import Database
from .http import Request
from .server import BACKLOG, Server
from .upstream import Address, UpstreamCounts, UpstreamFailed, ask, start_upstream

DEADLINE_S = 10.0
_DEADLINE_MAX_S = 300.0
_N_QUERIES = 4
_N_LONG_QUERIES = 1
_MEMBERS = """
SELECT members.name, kind, signature FROM modules JOIN members ON module_id = modules.id
WHERE modules.name = ? ORDER BY members.id LIMIT 20
"""
# Every member with every other: this takes many seconds.
_MENTIONS = """
SELECT members.name, count(*) FROM members
JOIN members AS others ON instr(others.summary, members.name) > 0 AND others.id != members.id
GROUP BY members.name ORDER BY 2 DESC, 1 LIMIT 20
"""


class Service:
    """The paths of the service, and what they answer."""

    def __init__(self, catalogue: Path, upstreams: dict[str, Address]) -> None:
        self.server = Server(self.handle)
        self._upstreams = upstreams
        self._database = Database(catalogue, "queries", _N_QUERIES)
        self._archive = Database(catalogue, "long queries", _N_LONG_QUERIES)

    def close(self) -> None:
        self._database.close()
        self._archive.close()

    async def handle(self, request: Request, answer: Answer) -> None:
        """Answer one request; the server has opened a scope around it."""
        path = request.path
        if request.method not in ("GET", "HEAD"):
            problem = f"{request.method} is not allowed\n".encode()
            await answer.whole(HTTPStatus.METHOD_NOT_ALLOWED, problem, "text/plain", "allow: GET")
        elif path.startswith("/dossier/"):
            await self._dossier(path.removeprefix("/dossier/"), request.parameters, answer)
        elif path == "/mentions":
            rows = await self._archive.query(_MENTIONS)
            await answer.whole(HTTPStatus.OK, _line(dict(rows)), "application/json")
        elif path == "/ledger":
            await answer.whole(HTTPStatus.OK, _line(self.snapshot()), "application/json")
        else:
            problem = b"there are /dossier/MODULE, /mentions and /ledger\n"
            await answer.whole(HTTPStatus.NOT_FOUND, problem)

    def snapshot(self) -> dict[str, Any]:
        """Return counts of what is outstanding, and of what the process uses of the machine."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        counts = self.server.counts
        return {
            "ledger": dataclasses.asdict(threadlets.ledger()),
            "requests": dataclasses.asdict(counts) | {"open": counts.open},
            "queries_stopped": self._database.n_stopped + self._archive.n_stopped,
            "connections": len(self.server.connections),
            "descriptors": len(os.listdir("/proc/self/fd")) - 1,
            "memory_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
        }

    async def _dossier(self, name: str, parameters: dict[str, str], answer: Answer) -> None:
        source = _source_of(name)
        wait_s = _seconds(parameters, "wait_s", 0.2)
        deadline_s = _seconds(parameters, "deadline_s", DEADLINE_S)
        if source is None or wait_s is None or deadline_s is None:
            problem = b"there is no such module with a source; wait_s and deadline_s are seconds\n"
            return await answer.whole(HTTPStatus.NOT_FOUND, problem)
        parts: dict[asyncio.Task[Any], str] = {}
        await answer.start(HTTPStatus.OK, "application/x-ndjson")
        try:
            async with threadlets.Scope(timeout=deadline_s, name=f"dossier of {name}") as scope:
                parts[scope.start(self._database.query, _MEMBERS, name)] = "members"
                parts[scope.start(_described, source)] = "source"
                for service, address in self._upstreams.items():
                    parts[scope.start(_or_problem(ask(address, name, wait_s)))] = service
                while parts:
                    done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                    for part in done:
                        await answer.send(_line({parts.pop(part): part.result()}))
        except TimeoutError:
            await answer.send(_line({"late": sorted(parts.values())}))
        return None


async def _described(source: str) -> dict[str, Any]:
    text = await threadlets.read_file(source)
    return {"file": Path(source).name, "n_bytes": len(text), "n_lines": bytes(text).count(b"\n")}


async def _or_problem(question: Coroutine[Any, Any, Any]) -> Any:
    """Return the answer of a service, or its error, without which the other parts can do."""
    try:
        return await question
    except (OSError, UpstreamFailed) as error:
        return {"problem": str(error)}


def _source_of(name: str) -> str | None:
    """Find a module's source without importing it: only top-level modules need no import."""
    if name not in sys.stdlib_module_names:
        return None
    spec = importlib.util.find_spec(name)
    return spec.origin if spec is not None and spec.has_location else None


def _seconds(parameters: dict[str, str], name: str, default: float) -> float | None:
    try:
        seconds = float(parameters.get(name, default))
    except ValueError:
        return None
    return seconds if 0 <= seconds <= _DEADLINE_MAX_S else None


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


async def serve(listener: socket.socket, catalogue: Path, upstreams: dict[str, Address]) -> None:
    """Serve dossiers until cancelled."""
    service = Service(catalogue, upstreams)
    try:
        await service.server.serve(listener)
    finally:
        service.close()


async def _main(listener: socket.socket, catalogue: Path, given: dict[str, Address]) -> None:
    counts = UpstreamCounts()
    # Without --upstream, two services are started in this process.
    ours = {} if given else {it: await start_upstream(counts) for it in ("usage", "ratings")}
    started = {name: server.sockets[0].getsockname() for name, server in ours.items()}
    try:
        await serve(listener, catalogue, given or started)
    finally:
        for server in ours.values():
            server.close()


def _parsed_upstream(text: str) -> tuple[str, Address]:
    name, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    return name, (host, int(port))


def main() -> int:
    parser = argparse.ArgumentParser(prog="service", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    parser.add_argument("--port", type=int, default=8001, help="0: any free port")
    parser.add_argument(
        "--upstream", type=_parsed_upstream, action="append", default=[], metavar="NAME=HOST:PORT"
    )
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    catalogue = default_path()
    open_catalogue(catalogue).close()
    with socket.create_server((options.host, options.port), backlog=BACKLOG) as listener:
        print("Dossiers on http://{}:{}".format(*listener.getsockname()[:2]), flush=True)
        try:
            threadlets.run(_main(listener, catalogue, dict(options.upstream)))
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
