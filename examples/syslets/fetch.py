"""Fetch web pages, many at a time: ``python -m examples.syslets.fetch [--proxy HOST:PORT] URL…``.

Without arguments, URLs are read from the standard input. For each of them, one program opens a
connection, sends the request, receives the answer and closes the connection. Only http: is
supported, redirections are not followed, and there is no time-out.
"""

from __future__ import annotations

import argparse
import functools
import http.client
import io
import socket as sockets
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from threadlets import sweep, syslet
from threadlets.atoms import break_if, close, connect, growing, loop, recv, socket

from .streams import send_all

ANSWER_BYTES_MAX = 64 * 1024 * 1024
DEPTH = 64


@syslet
def ask(family, address, question, n_bytes):
    """Send a request over a new connection; return everything until the server closes it."""
    server = yield socket(family, sockets.SOCK_STREAM)
    yield connect(server, address)
    yield from send_all(server, question, n_bytes)
    answer = growing(ANSWER_BYTES_MAX)
    with loop():
        n = yield recv(server, answer)
        break_if(n == 0)
    yield close(server)
    return answer


@dataclass(frozen=True)
class Page:
    """A server's answer."""

    status: int
    body: bytes


Address = tuple[str, int]


def fetch_all(
    urls: Sequence[str], proxy: Address | None = None, depth: int = DEPTH
) -> Iterator[tuple[str, Page | Exception]]:
    """Iterate over URLs, in their order, each with the page or the error.

    Raises:
        ValueError: a URL is not an http: URL.
        OSError: the name of a host cannot be resolved.
    """
    questions = (_question(url, proxy) for url in urls)
    for url, result in zip(urls, sweep(ask, questions, depth=depth), strict=True):
        yield url, _page(result.value) if result.ok else result.error


def _question(url: str, proxy: Address | None) -> tuple[int, Any, bytes, int]:
    """Return the arguments of `ask` for a URL."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url!r} is not an http URL: write http://host/path")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = f"http://{parts.netloc}{path}" if proxy else path
    question = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode(
        "ascii"
    )
    family, address = _resolved(*(proxy or (parts.hostname, parts.port or 80)))
    return family, address, question, len(question)


@functools.lru_cache(maxsize=1024)
def _resolved(host: str, port: int) -> tuple[int, Any]:
    family, _, _, _, address = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM)[0]
    return family, address


def _page(answer: bytes) -> Page | Exception:
    response = http.client.HTTPResponse(_Received(answer))  # type: ignore[arg-type]
    try:
        response.begin()
        return Page(response.status, response.read())
    except (http.client.HTTPException, OSError) as error:
        return error


class _Received:
    """As much of a socket as http.client needs to read an answer that has been received."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._content)


def parsed_address(text: str) -> Address:
    """Return the host and the port of HOST:PORT.

    Raises:
        ValueError: `text` is not HOST:PORT.
    """
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _lines(file: Iterable[str]) -> list[str]:
    return [line.strip() for line in file if line.strip()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="fetch", description=__doc__)
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("--proxy", type=parsed_address, metavar="HOST:PORT")
    parser.add_argument("--depth", type=int, default=DEPTH, help="connections at a time")
    options = parser.parse_args()
    n_failed = 0
    try:
        urls = options.urls or _lines(sys.stdin)
        for url, page in fetch_all(urls, options.proxy, options.depth):
            if isinstance(page, Page):
                print(f"{page.status} {len(page.body):9,}  {url}")
            else:
                n_failed += 1
                print(f"fetch: {url}: {page}", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"fetch: {error}", file=sys.stderr)
        return 1
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
