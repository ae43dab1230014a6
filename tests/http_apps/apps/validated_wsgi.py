"""A WSGI application that wsgiref's validator watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    kind = environ["PATH_INFO"]
    stream = environ["wsgi.input"]
    if kind == "/lines":
        body = b"".join([stream.readline(), *stream.readlines(10), *stream])
    elif kind == "/parts":
        body = b"".join(iter(lambda: stream.read(1000), b""))
    else:
        body = stream.read(-1)
    status = "304 Not Modified" if kind == "/unmodified" else "200 OK"
    headers = [] if kind == "/unmodified" else [("Content-Type", "text/plain")]
    write = start_response(status, headers)
    if kind == "/written":
        write(b"written ")

    def parts() -> Iterator[bytes]:
        if kind != "/unmodified":
            yield b"%d" % len(body)
            yield b""
            yield b" bytes"

    return parts()


app = validator(application)
