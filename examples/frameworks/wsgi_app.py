"""A plain WSGI application: it answers, blocks, reads a body, and streams.

Start it with ``threadlets serve examples.frameworks.wsgi_app:app``. Flask and Django applications
are WSGI applications, too, and are served as they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_COUNT_PAUSE_S = 0.1


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request, as PEP 3333 has it."""
    path = environ["PATH_INFO"]
    if path == "/":
        return _answer(start_response, f"hello from {threading.current_thread().name}\n")
    if path == "/slow":
        time.sleep(1)  # Meanwhile another thread runs the loop.
        return _answer(start_response, "slept\n")
    if path == "/shout":
        said: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        return _answer(start_response, said.decode(errors="replace").upper())
    if path == "/count":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return _count()
    return _answer(start_response, f"there is no {path}\n", "404 Not Found")


def _answer(start_response: StartResponse, text: str, status: str = "200 OK") -> list[bytes]:
    body = text.encode()
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]


def _count() -> Iterator[bytes]:
    for n in range(1, 6):
        yield b"%d\n" % n
        time.sleep(_COUNT_PAUSE_S)
