"""WSGI applications at the corners of PEP 3333, by path."""

from __future__ import annotations

import contextvars
import gzip
import io
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
TEXT = [("Content-Type", "text/plain")]

#: What has happened, for tests to ask for.
events: list[str] = []
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
local = threading.local()
meeting = threading.Barrier(12)


def started_twice(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    try:
        start_response("201 Created", TEXT)
    except AssertionError:
        return [b"refused"]
    return [b"taken"]


def replaced(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("X-First", "1")])
    try:
        raise ValueError("on purpose")
    except ValueError:
        start_response("503 Later", [*TEXT, ("X-Second", "2")], sys.exc_info())
    return [b"sorry"]


def replaced_too_late(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"begin"
    try:
        raise ValueError("on purpose")
    except ValueError:
        try:
            start_response("503 Later", TEXT, sys.exc_info())
        except ValueError as error:
            events.append(f"raised {error}")
            raise


def never_started(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return [b"no head"]


def started_late(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Start the response only when the first part is asked for."""
    start_response("202 Accepted", TEXT)
    yield b"late"


def written(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", TEXT)
    write(b"one ")
    write(b"")
    write(b"two ")
    return [b"three ", b"four"]


class Parts:
    """Parts of a response that note how they are used."""

    def __init__(self, *parts: Any) -> None:
        self._parts = iter(parts)

    def __iter__(self) -> Parts:
        return self

    def __next__(self) -> Any:
        part = next(self._parts)
        if isinstance(part, Exception):
            raise part
        return part

    def close(self) -> None:
        events.append("closed")


def closes(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return Parts(b"", b"a", b"", b"b")


def fails_in_the_middle(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return Parts(b"a", RuntimeError("on purpose"), b"b")


def fails_at_first(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return Parts(RuntimeError("on purpose"))


def no_parts(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return Parts()


def empty_list(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


def text_parts(environ: Environ, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", TEXT)
    return Parts("text")


def not_iterable(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", TEXT)


def bad_status(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    answers = []
    for status in ("200", "99 Low", "abc Odd", "", "2000 Long", "100 Continue", b"200 OK"):
        try:
            start_response(status, TEXT)
        except (TypeError, ValueError) as error:
            answers.append(type(error).__name__.encode())
        else:
            answers.append(b"taken")
            break
    return [b" ".join(answers)]


def bad_headers(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    answers = []
    for field in (("A b", "1"), ("A", "1\r\nB: 2"), ("A", 1), ("A", "\N{SNAKE}"), "Ab", ["A", "b"]):
        try:
            start_response("200 OK", [field])
        except (TypeError, ValueError) as error:
            answers.append(type(error).__name__)
        else:
            answers.append("taken")
    start_response("200 OK", [("X-Latin", "caf\xe9"), ("Keep-Alive", "1"), ("Upgrade", "odd")])
    return [" ".join(answers).encode()]


def tuple_of_one(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 Fine", TEXT)
    return (b"only",)


def read_all(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    body = environ["wsgi.input"].read()
    rest = environ["wsgi.input"].read()
    return [b"%d %d" % (len(body), len(rest))]


def read_parts(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    stream = environ["wsgi.input"]
    answers = [stream.read(0), stream.read(3), stream.readline(), stream.readline(4)]
    answers += [*stream.readlines(1), next(stream), stream.read(2), *stream, stream.read(5)]
    return [repr(answers).encode()]


def long_line(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"%d" % len(environ["wsgi.input"].readline())]


def ignores_body(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"not read"]


def echo(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Send each line back when it comes."""
    start_response("200 OK", TEXT)
    yield from environ["wsgi.input"]


def environ_of(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    shown = {key: value for key, value in environ.items() if isinstance(value, (str, bool))}
    return [repr(shown).encode("utf-8", "backslashreplace")]


def endless(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    try:
        while True:
            yield b"x" * 10_000
    finally:
        events.append("left")


def blocks(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    meeting.wait(20)
    return [b"met"]


def contexts(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """A context of its own for each request, which its parts share; a thread-local value that stays."""
    seen = variable.get()
    variable.set(environ["QUERY_STRING"])
    local.value = environ["QUERY_STRING"]
    start_response("200 OK", TEXT)
    yield f"{seen} ".encode()
    time.sleep(0.001)
    same = variable.get() == local.value == environ["QUERY_STRING"]
    yield b"same" if same else b"mixed"


def _file(environ: Environ) -> Any:
    kind = environ["QUERY_STRING"]
    data = bytes(range(256)) * 1000
    if kind == "bytes":
        return io.BytesIO(data)
    if kind == "gzip":
        written = tempfile.TemporaryFile()  # noqa: SIM115  # The server closes it, as those below.
        with gzip.open(written, "wb") as compressed:
            compressed.write(data)
        written.seek(0)
        return gzip.open(written)
    if kind == "pipe":
        reading, writing = os.pipe()

        def write() -> None:
            with open(writing, "wb") as file:
                file.write(data)

        threading.Thread(target=write).start()
        return open(reading, "rb")
    make: Any = tempfile.NamedTemporaryFile if kind == "named" else tempfile.TemporaryFile
    file = make()
    file.write(data)
    file.seek(1000 if kind == "middle" else 0)
    return file


def wraps_file(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    headers = TEXT
    if environ["QUERY_STRING"] == "short":
        headers = [*TEXT, ("Content-Length", "300")]
    start_response("200 OK", headers)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](_file(environ), 4096)
    return wrapped


def logs(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    errors = environ["wsgi.errors"]
    errors.write("a line of the ")
    errors.writelines(["application", "\n"])
    errors.flush()
    start_response("200 OK", TEXT)
    return [b""]


def too_long(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "3")])
    return Parts(b"ab", b"cdef")


def too_short(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "30")])
    return Parts(b"ab")


def happened(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [repr(events).encode()]


def app(environ: Environ, start_response: StartResponse) -> Any:
    found = globals()[environ["PATH_INFO"].strip("/")]
    return found(environ, start_response)
