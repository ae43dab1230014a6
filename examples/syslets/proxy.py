"""A forward proxy for plain HTTP: ``python -m examples.syslets.proxy [--port 8080]``.

It relays ``GET http://host:port/path``, one request for each connection, and refuses the rest.
Python parses the head of the request and decides; accepting, connecting and relaying are programs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import socket as sockets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import threadlets
from threadlets import sweep, syslet
from threadlets.atoms import (
    accept,
    add,
    break_if,
    connect,
    counter,
    loop,
    recv,
    send,
    shutdown,
    socket,
)

from .streams import send_all

HEAD_BYTES_MAX = 16 * 1024
HEAD_DEADLINE_S = 30.0
_CHUNK_BYTES = 64 * 1024
_N_ACCEPTS = 8
_PAUSE_S = 0.1
_FAREWELL_S = 2.0
_REQUEST_LINE = re.compile(r"([A-Z]+) (\S+) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)")
_OF_THIS_CONNECTION = {"host", "connection", "proxy-connection", "keep-alive", "te", "upgrade"}


@syslet
def accept_client(listener):
    client = yield accept(listener)
    return client


@syslet
def receive(client):
    """Return what a client sends next; empty at its end."""
    piece = yield recv(client, HEAD_BYTES_MAX)
    return piece


@syslet
def ask(family, address, question, n_bytes):
    """Send a request over a new connection, and return the connection's descriptor."""
    server = yield socket(family, sockets.SOCK_STREAM)
    yield connect(server, address)
    yield from send_all(server, question, n_bytes)
    return server


@syslet
def relay(server, client):
    """Send a client everything that a server sends, and return the number of bytes."""
    total = counter()
    with loop():
        data = yield recv(server, _CHUNK_BYTES)
        break_if(data == b"")
        yield send(client, data)
        yield add(total, data.length)
    return total


@syslet
def say(client, answer, n_bytes):
    """Send the proxy's own answer, then read on until the client closes.

    Closing with data unread would reset the connection, and the client could lose the answer.
    """
    yield from send_all(client, answer, n_bytes)
    yield shutdown(client, sockets.SHUT_WR)
    with loop():
        unread = yield recv(client, _CHUNK_BYTES)
        break_if(unread == b"")


class Refused(Exception):
    """A request is not relayed; the client is told why."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status

    def answer(self) -> bytes:
        body = f"{self.status} {self.status.phrase}: {self}\n".encode()
        head = (
            f"HTTP/1.1 {self.status} {self.status.phrase}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class Request:
    """A request to relay, and the server that it is for."""

    host: str
    port: int
    question: bytes


def parsed(head: bytes) -> Request:
    """Return the request that a head describes.

    Raises:
        Refused: the head is malformed, or not that of a GET of an http: URL.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise Refused(HTTPStatus.BAD_REQUEST, "this is not a request of HTTP/1.1")
    method, target = match.groups()
    if method != "GET":
        raise Refused(HTTPStatus.NOT_IMPLEMENTED, f"only GET is relayed here, not {method}")
    try:
        parts = urlsplit(target)
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{target} is not a URL") from error
    if parts.scheme != "http" or not host:
        reason = "this is a proxy for http: ask for http://host/path"
        raise Refused(HTTPStatus.BAD_REQUEST, reason)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [f"Host: {parts.netloc.rpartition('@')[2]}", *_forwarded(lines), "Connection: close"]
    question = "\r\n".join((f"GET {path} HTTP/1.1", *headers, "", ""))
    return Request(host, port, question.encode("latin-1"))


def _forwarded(lines: Iterable[str]) -> Iterable[str]:
    """Return the header lines that are meant for the server."""
    headers = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{line!r} is not a header")
        headers.setdefault(match[1].lower(), []).append(match[2])
    has_body = headers.get("content-length", ["0"]) != ["0"] or "transfer-encoding" in headers
    if has_body:
        raise Refused(HTTPStatus.NOT_IMPLEMENTED, "a GET with a body is not relayed here")
    named = {name.strip().lower() for it in headers.get("connection", ()) for name in it.split(",")}
    kept = headers.keys() - _OF_THIS_CONNECTION - named
    return [f"{name}: {value}" for name in headers if name in kept for value in headers[name]]


async def serve(listener: sockets.socket) -> None:
    """Serve the clients of a listening socket until cancelled."""
    async with (
        asyncio.TaskGroup() as tasks,
        sweep(
            accept_client, itertools.repeat(listener), depth=_N_ACCEPTS, ordered=False
        ) as accepted,
    ):
        async for result in accepted:
            if result.ok:
                tasks.create_task(_attend(sockets.socket(fileno=result.value)))
            else:
                # Most likely there are no descriptors left; connections that end free some.
                print(f"proxy: accepting: {result.error}", file=sys.stderr)
                await asyncio.sleep(_PAUSE_S)


async def _attend(client: sockets.socket) -> None:
    with client:
        try:
            request = parsed(await _head(client))
            await _relay(request, client)
        except Refused as refused:
            await _refuse(client, refused)
        except OSError:
            pass


async def _head(client: sockets.socket) -> bytes:
    received = b""
    try:
        async with asyncio.timeout(HEAD_DEADLINE_S):
            while b"\r\n\r\n" not in received:
                if len(received) > HEAD_BYTES_MAX:
                    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                    raise Refused(status, f"the limit is {HEAD_BYTES_MAX} bytes")
                piece = (await receive(client)).unwrap()
                if not piece:
                    raise ConnectionResetError("the client left before its request was complete")
                received += piece
    except TimeoutError as error:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "no request came in time") from error
    return received.partition(b"\r\n\r\n")[0]


async def _relay(request: Request, client: sockets.socket) -> None:
    with await _connected(request) as server:
        relayed = await relay(server, client)
        if relayed.ok and relayed.value == 0:
            raise Refused(HTTPStatus.BAD_GATEWAY, "the server closed without an answer")


async def _connected(request: Request) -> sockets.socket:
    """Return a connection over which the request has been sent."""
    where = f"{request.host}:{request.port}"
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(request.host, request.port, type=sockets.SOCK_STREAM)
    except OSError as error:
        raise Refused(HTTPStatus.BAD_GATEWAY, f"{where}: {error.strerror}") from error
    for family, _, _, _, address in found:
        asked = await ask(family, address, request.question, len(request.question))
        if asked.ok:
            return sockets.socket(fileno=asked.value)
    raise Refused(HTTPStatus.BAD_GATEWAY, f"{where}: {asked.error.strerror}")


async def _refuse(client: sockets.socket, refused: Refused) -> None:
    answer = refused.answer()
    try:
        async with asyncio.timeout(_FAREWELL_S):
            await say(client, answer, len(answer))
    except TimeoutError:
        pass


def listening(host: str, port: int) -> sockets.socket:
    """Return a listening socket; port 0 is any free port."""
    return sockets.create_server((host, port), backlog=1024)


def main() -> int:
    parser = argparse.ArgumentParser(prog="proxy", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    parser.add_argument("--port", type=int, default=8080, help="0: any free port")
    options = parser.parse_args()
    try:
        listener = listening(options.host, options.port)
    except OSError as error:
        print(f"proxy: {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 1
    with listener:
        print("Proxy on http://{}:{}".format(*listener.getsockname()[:2]), flush=True)
        try:
            threadlets.run(serve(listener))
        except KeyboardInterrupt:
            pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
