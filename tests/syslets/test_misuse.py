"""Misuse: arguments of the wrong kind raise, the message names them, and no run begins."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
from threadlets import BufferPool, CompletionRing, sweep, syslet
from threadlets.atoms import (
    add,
    buffer,
    connect,
    counter,
    openat,
    poll,
    pread,
    pwrite,
    read,
    timeout,
)

from .harness import Carry, within_deadline

FdOf = Callable[..., int]


@syslet
def _read_small(path):
    fd = yield openat(path)
    data = buffer(4096)
    n = yield read(fd, data)
    return data[:n]


@syslet
def _read_into(fd, memory):
    n = yield read(fd, memory)
    return n


@syslet
def _write_at(fd, data, offset):
    n = yield pwrite(fd, data, offset)
    return n


@syslet
def _read_at(fd, offset):
    data = buffer(10)
    n = yield pread(fd, data, offset)
    return data[:n]


@syslet
def _sleep(seconds):
    yield timeout(seconds)


@syslet
def _connect(fd, where):
    yield connect(fd, where)


@syslet
def _three(fd, number, path="."):
    yield poll(fd, 1)
    total = counter()
    yield add(total, number)
    yield openat(path)
    return total


_MISUSE: dict[str, tuple[Any, tuple[Any, ...], type[Exception], str]] = {
    "no argument": (_read_small, (), TypeError, "misses argument 'path'"),
    "too many arguments": (_read_small, ("a", "b"), TypeError, "takes 1 arguments but 2|not tuple"),
    "an int for a path": (_read_small, (7,), TypeError, "path"),
    "None for a path": (_read_small, (None,), TypeError, "path"),
    "a path with a zero byte": (_read_small, ("a\0b",), ValueError, "'path'.*null byte"),
    "bytes with a zero byte": (_read_small, (b"a\0b",), ValueError, "'path'.*null byte"),
    "a lone surrogate that stands for no byte": (
        _read_small,
        ("\ud800",),
        UnicodeEncodeError,
        "surrogates not allowed",
    ),
    "read-only memory to be written to": (_read_into, (0, b"x"), TypeError, "'memory'.*read-only"),
    "a read-only view to be written to": (
        _read_into,
        (0, memoryview(b"x")),
        TypeError,
        "'memory'.*read-only",
    ),
    "memory that is in pieces": (
        _read_into,
        (0, memoryview(bytearray(9))[::2]),
        BufferError,
        "'memory'.*contiguous",
    ),
    "a str for memory": (_write_at, (0, "x", 0), TypeError, "'data'.*bytes-like"),
    "a str for a descriptor": (_read_at, ("x", 0), TypeError, "'fd'.*descriptor"),
    "a float for a descriptor": (_read_at, (1.0, 0), TypeError, "'fd'.*descriptor"),
    "a descriptor that no int has": (_read_at, (2**40, 0), (TypeError, OverflowError), "'fd'"),
    "a float for an int": (_read_at, (0, 1.5), TypeError, "'offset'.*int"),
    "None for an int": (_read_at, (0, None), TypeError, "'offset'.*int"),
    "an int of more than 64 bits": (_read_at, (0, 1 << 64), OverflowError, "'offset'"),
    "a str for seconds": (_sleep, ("1",), TypeError, "'seconds'"),
    "no number of seconds": (_sleep, (float("nan"),), ValueError, "'seconds'.*not a number"),
    "a name for a host": (_connect, (0, ("localhost", 1)), ValueError, "'where'.*getaddrinfo"),
    "a port that is none": (_connect, (0, ("::1", 65536)), OverflowError, "'where'"),
    "an address without a port": (_connect, (0, ("::1",)), TypeError, "'where'.*host and port"),
    "an int for an address": (_connect, (0, 7), TypeError, "'where'.*address"),
    "a Unix path that is too long": (_connect, (0, "x" * 200), ValueError, "'where'.*too long"),
}


@pytest.mark.parametrize(("program", "args", "error", "text"), _MISUSE.values(), ids=_MISUSE)
def test_misuse_raises_and_says_what_of(
    engine_kind: str, program: Any, args: tuple[Any, ...], error: Any, text: str
) -> None:
    """Every way of running raises the same error, and begins no run."""
    ring = CompletionRing()
    ways: list[Callable[[], object]] = [
        lambda: program.run(*args),
        lambda: within_deadline(program(*args)),
        lambda: ring.submit(program, *args),
    ]
    if args:
        ways.append(lambda: list(sweep(program, [args[0] if len(args) == 1 else args])))
    for way in ways:
        with pytest.raises(error, match=re.compile(text, re.DOTALL)):
            way()
    assert 0 == ring.outstanding


class _Stubborn:
    """An object with the methods of a path and of a descriptor, all of which raise."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __fspath__(self) -> str:
        raise self._error

    def fileno(self) -> int:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        KeyError("own"),
        OSError(errno.EIO, "own"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "own"),
        RuntimeError("own"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_an_argument_raises_is_raised(error: Exception) -> None:
    """The exception has its own type, whatever its constructor requires."""
    for program, args in ((_read_small, ()), (_read_at, (0,))):
        with pytest.raises(type(error), match="own"):
            program.run(_Stubborn(error), *args)


def test_keywords_and_defaults_fill_what_is_left(carry: Carry, fd_of: FdOf) -> None:
    """Keywords and defaults complete the arguments; unknown and repeated names are misuse."""
    fd = fd_of("/dev/null", os.O_RDWR)
    assert 7 == _three.run(fd, number=7).unwrap()
    assert 7 == carry(_three, fd, 7, "/").unwrap()
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        _three.run(fd, 7, nothing=1)
    with pytest.raises(TypeError, match="multiple values for argument 'fd'"):
        _three.run(fd, 7, fd=fd)


def test_a_loop_that_is_not_threadlets_is_refused() -> None:
    """The message says which loop to use instead."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"threadlets\.run"):
            await _sleep(0)

    asyncio.run(main())


def test_pools_without_memory_are_refused() -> None:
    """A pool of 0 bytes or less is refused."""
    with pytest.raises(ValueError, match="memory_max is 0"):
        BufferPool(0)
    with pytest.raises((ValueError, OverflowError)):
        BufferPool(-1)
