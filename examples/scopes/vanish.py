"""Let thousands of clients vanish at once, and check: ``python -m examples.scopes.vanish``.

The service, and the slow services that it asks, are processes of their own. Some clients stay, and
measure how long their answers take before, meanwhile and after. Exit status: 0 when everything that
belonged to the vanished clients was given back, and every client that stayed was answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import threadlets

from .upstream import Address

_ROOT = Path(__file__).parents[2]
_N_STAYERS = 20
_PAUSE_S = 0.1
_AT_ONCE = 50
_DEADLINE_S = 120.0
_START_S = 60.0
_WAIT_S = 250
_SHORT = "/dossier/json?wait_s=0.02"
_LONG = f"/dossier/json?wait_s={_WAIT_S}&deadline_s={_WAIT_S}"
_RESET = struct.pack("ii", 1, 0)


class Failed(Exception):
    """Something that this program demonstrates does not hold."""


class Visitor:
    """A client that stays: one connection, with one request after the other."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> bytes:
        """Return the body of the answer.

        Raises:
            Failed: its status is not 200, or it is not complete.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise Failed(f"{path}: {head!r}")
            if length := re.search(rb"content-length: (\d+)", head):
                return await reader.readexactly(int(length[1]))
            body = b""
            while n_bytes := int(await reader.readline(), 16):
                body += await reader.readexactly(n_bytes)
                await reader.readexactly(2)
            await reader.readexactly(2)
            return body
        except asyncio.IncompleteReadError as error:
            raise Failed(f"{path}: the answer is not complete: {error}") from error

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()


class Stayers:
    """Visitors that ask for dossiers all the time; the latencies are those since `take`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._latencies_s: list[float] = []
        self._is_over = False

    async def stay(self) -> None:
        loop = asyncio.get_running_loop()
        visitor = Visitor(self._address)
        while not self._is_over:
            asked_s = loop.time()
            lines = (await visitor.get(_SHORT)).splitlines()
            if {"members", "source", "usage", "ratings"} != {
                n for it in lines for n in json.loads(it)
            }:
                raise Failed(f"a dossier is not complete: {lines}")
            self._latencies_s.append(loop.time() - asked_s)
            await asyncio.sleep(_PAUSE_S)
        await visitor.close()

    def leave(self) -> None:
        self._is_over = True

    def take(self) -> str:
        """Describe the latencies since the last call."""
        ordered, self._latencies_s = sorted(self._latencies_s), []
        if not ordered:
            return "no answers"
        p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
        return (
            f"{len(ordered):6,} answers, p50 {p50 * 1000:6.1f} ms, p99 {p99 * 1000:6.1f} ms, "
            f"max {ordered[-1] * 1000:6.1f} ms"
        )


async def demonstrate(service: Address, upstream: Address, n_clients: int, seconds: float) -> None:
    """Let clients come, wait and vanish.

    Raises:
        Failed: something was not given back, or a client was not answered.
    """
    async with threadlets.Scope(timeout=_DEADLINE_S, name="demonstration") as scope:
        observer, stayers = Visitor(service), Stayers(service)
        await observer.get(_SHORT)
        first = await _snapshot(observer)
        visits = [scope.start(stayers.stay()) for _ in range(_N_STAYERS)]
        await asyncio.sleep(1)
        stayers.take()
        await asyncio.sleep(seconds)
        print(f"before:          {stayers.take()}")
        clients = await _come(observer, service, upstream, n_clients)
        print(f"while they come: {stayers.take()}")
        await asyncio.sleep(seconds)
        print(f"while they wait: {stayers.take()}")
        _print("waiting", await _snapshot(observer))
        await _vanish(observer, clients)
        print(f"they vanish:     {stayers.take()}")
        await asyncio.sleep(seconds)
        print(f"after:           {stayers.take()}")
        stayers.leave()
        await asyncio.wait(visits)
        await _check(observer, upstream, first, n_clients)
        await observer.close()


async def _come(
    observer: Visitor, service: Address, upstream: Address, n_clients: int
) -> list[socket.socket]:
    """Connect clients with requests that take long: one in ten a query, the others dossiers."""
    clients: list[socket.socket] = []
    n_dossiers = 0
    while len(clients) < n_clients:
        for _ in range(min(_AT_ONCE, n_clients - len(clients))):
            is_query = len(clients) % 10 == 0
            n_dossiers += not is_query
            client = socket.create_connection(service)
            client.sendall(f"GET {'/mentions' if is_query else _LONG} HTTP/1.1\r\n\r\n".encode())
            clients.append(client)
        # Wait until these are served, or the first of all would wait for the last.
        while (await _snapshot(observer))["requests"]["open"] < len(clients):
            await asyncio.sleep(0.005)
    while (await _ask_counts(upstream))["open"] < 2 * n_dossiers:
        await asyncio.sleep(0.05)
    return clients


async def _vanish(observer: Visitor, clients: list[socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    for n, client in enumerate(clients):
        if n % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        client.close()
    closed_s = loop.time()
    while (await _snapshot(observer))["requests"]["open"] > _N_STAYERS + 1:
        await asyncio.sleep(0.005)
    print(
        f"{len(clients):,} clients vanished within {(closed_s - begun_s) * 1000:.0f} ms, half of them "
        f"by reset; everything was given back {(loop.time() - begun_s) * 1000:.0f} ms after the first"
    )


async def _check(
    observer: Visitor, upstream: Address, first: dict[str, Any], n_clients: int
) -> None:
    last = await _snapshot(observer)
    _print("in the end", last)
    for name in ("tasks", "calls", "syslets", "waits", "runs", "blocked", "descriptors"):
        if first["ledger"][name] != last["ledger"][name]:
            raise Failed(f"{name} were {first['ledger'][name]}, and are {last['ledger'][name]}")
    if (n_clients, 0, 1) != tuple(last["requests"][it] for it in ("abandoned", "failed", "open")):
        raise Failed(f"{n_clients} requests should be abandoned: {last['requests']}")
    counts = await _ask_counts(upstream)
    print(f"queries that were begun and stopped: {last['queries_stopped']}")
    print(f"the slow services: {counts['answered']:,} answered, {counts['left']:,} closed before")
    if counts["open"] != 1:
        raise Failed(f"{counts['open'] - 1} connections to the slow services are still open")


async def _snapshot(observer: Visitor) -> dict[str, Any]:
    snapshot: dict[str, Any] = json.loads(await observer.get("/ledger"))
    return snapshot


def _print(when: str, snapshot: dict[str, Any]) -> None:
    ledger = ", ".join(f"{n:,} {name}" for name, n in snapshot["ledger"].items() if n)
    print(
        f"{when}: {ledger}; the process: {snapshot['descriptors']:,} descriptors, "
        f"{snapshot['memory_mb']} MB"
    )


async def _ask_counts(upstream: Address) -> dict[str, int]:
    reader, writer = await asyncio.open_connection(*upstream)
    writer.write(b'{"counts": true}\n')
    counts: dict[str, int] = json.loads(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return counts


@contextlib.contextmanager
def _process(module: str, *arguments: str) -> Iterator[Address]:
    """Start a server and yield the address that it prints; it must end on Ctrl-C, with status 0."""
    command = [sys.executable, "-m", f"examples.scopes.{module}", *arguments]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            match = re.search(r"([\d.]+):(\d+)$", process.stdout.readline())
            if match is None:
                raise Failed(f"the {module} did not start")
            yield match[1], int(match[2])
            process.send_signal(signal.SIGINT)
            if process.wait(_START_S) != 0:
                raise Failed(f"the {module} ended with status {process.returncode}")
        finally:
            process.kill()


def main() -> int:
    parser = argparse.ArgumentParser(prog="vanish", description=__doc__)
    parser.add_argument("--clients", type=int, default=3000, help="how many vanish")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each phase")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with _process("upstream") as upstream:
            where = "{}:{}".format(*upstream)
            services = ("--upstream", f"usage={where}", "--upstream", f"ratings={where}")
            with _process("service", "--port", "0", *services) as service:
                threadlets.run(demonstrate(service, upstream, options.clients, options.seconds))
    except (Failed, ExceptionGroup, TimeoutError) as error:
        print(f"error: {error!r}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
