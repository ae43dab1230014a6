"""Follow many files at once, as `tail -F` does: ``python -m examples.syslets.tail FILE…``.

Each file has a program that checks the file, sleeps, and checks again, until the file has grown, or
was truncated or replaced, after which it is opened anew. While nothing happens, no Python code runs,
however many files there are.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from threadlets import CompletionRing, Result, Syslet, syslet
from threadlets.atoms import (
    break_if,
    loop,
    openat,
    pread,
    statx,
    stop_if,
    timeout,
    when,
)

PIECE_BYTES = 16 * 1024
_N_DESCRIPTORS_SPARE = 100


@syslet
def wait_for_more(fd, path, inode, offset, interval):
    """Return the bytes after `offset` as soon as there are any; None if the file was cut or replaced.

    A file is replaced when its path leads to another file, which may be a while after it is gone.
    The path is looked up before the bytes are read, so that none written in between are missed.
    """
    with loop():
        named = yield statx(path).unchecked()
        piece = yield pread(fd, PIECE_BYTES, offset)
        break_if(piece != b"")
        with when(named.value == 0):
            stop_if(named.ino != inode)
        own = yield statx(dir_fd=fd)
        stop_if(own.size < offset)
        yield timeout(interval)
    return piece


@syslet
def wait_for_file(path, interval):
    """Return a descriptor of a file as soon as it can be opened."""
    with loop():
        fd = yield openat(path).unchecked()
        break_if(fd >= 0)
        yield timeout(interval)
    return fd


@dataclass
class _Followed:
    """An open file: how far it has been read, and its last line while that is incomplete."""

    fd: int
    inode: int
    offset: int
    unfinished: bytes = b""


class Tail:
    """Iterates over the lines that are appended to files, each with the path of its file.

    A file that exists already is read from its end on, unless `from_start`; one that is created
    later, or replaces another, from its beginning. Iterating raises OSError for a file that cannot
    be read.
    """

    def __init__(
        self, paths: Iterable[str], interval_s: float = 0.2, *, from_start: bool = False
    ) -> None:
        self._interval_s = interval_s
        self._ring = CompletionRing()
        self._ended_at_once: deque[tuple[str, Result]] = deque()
        self._followed: dict[str, _Followed] = {}
        self._told = self._tell()
        for path in paths:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._submit(wait_for_file, path, interval_s, path=path)
            else:
                self._follow(path, fd, 0 if from_start else os.fstat(fd).st_size)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return self._told

    def close(self) -> None:
        """Stop following the files."""
        self._ring.cancel()
        while self._ended_at_once or self._ring.outstanding:
            for path, result in self._taken():
                if result.ok and path not in self._followed:
                    os.close(result.value)
        for followed in self._followed.values():
            os.close(followed.fd)
        self._followed.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _tell(self) -> Iterator[tuple[str, bytes]]:
        while self._ended_at_once or self._ring.outstanding:
            for path, result in self._taken():
                if not result.ok:
                    raise OSError(result.errno, os.strerror(result.errno), path)
                for line in self._lines(path, result.value):
                    yield path, line

    def _taken(self) -> Iterator[tuple[str, Result]]:
        entries = [] if self._ended_at_once else self._ring.wait()
        self._ended_at_once.extend(entries)
        while self._ended_at_once:
            yield self._ended_at_once.popleft()

    def _lines(self, path: str, value: Any) -> list[bytes]:
        """Return the lines that are complete now, and submit the next program for the file."""
        followed = self._followed.get(path)
        if followed is None:
            self._follow(path, value, 0)
            return []
        if value is None:
            del self._followed[path]
            os.close(followed.fd)
            self._submit(wait_for_file, path, self._interval_s, path=path)
            return [followed.unfinished] if followed.unfinished else []
        followed.offset += len(value)
        *lines, followed.unfinished = (followed.unfinished + value).split(b"\n")
        self._wait(path, followed)
        return lines

    def _follow(self, path: str, fd: int, offset: int) -> None:
        self._followed[path] = _Followed(fd, os.fstat(fd).st_ino, offset)
        self._wait(path, self._followed[path])

    def _wait(self, path: str, at: _Followed) -> None:
        self._submit(wait_for_more, at.fd, path, at.inode, at.offset, self._interval_s, path=path)

    def _submit(self, program: Syslet[...], *args: Any, path: str) -> None:
        result = self._ring.submit(program, *args, tag=path)
        if result is not None:
            self._ended_at_once.append((path, result))


def _allow_descriptors(n_files: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n_files + _N_DESCRIPTORS_SPARE
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def main() -> int:
    parser = argparse.ArgumentParser(prog="tail", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="FILE")
    parser.add_argument("--interval", type=float, default=0.2, help="seconds between two checks")
    parser.add_argument("--from-start", action="store_true", help="print what is there already")
    options = parser.parse_args()
    _allow_descriptors(len(options.paths))
    last_path = None
    try:
        with Tail(options.paths, options.interval, from_start=options.from_start) as lines:
            for path, line in lines:
                if path != last_path:
                    print(f"==> {path} <==")
                    last_path = path
                print(os.fsdecode(line), flush=True)
    except OSError as error:
        print(f"tail: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
