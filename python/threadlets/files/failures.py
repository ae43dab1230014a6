"""What became of a program, told in the way of the `os` module; and programs whose end is known."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import sys
from typing import Any, TypeAlias

from threadlets._core import Dispatcher, Pending, Result, checkpoint
from threadlets.syslets import Syslet
from threadlets.syslets.syslet import running_loop

PathLike: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def failure(
    result: Result, path: PathLike | None = None, second_path: PathLike | None = None
) -> OSError:
    """Return the exception for a result that is not ok, with the paths that it is about."""
    return os_error(result.errno, path, second_path)


def read_failure(result: Result, path: PathLike | None = None) -> OSError | MemoryError:
    """Return the exception for a read that failed: there may be no memory for what was to be read."""
    if result.errno == errno.ENOMEM:
        return MemoryError(os.strerror(errno.ENOMEM))
    return failure(result, path)


def os_error(
    number: int, path: PathLike | None = None, second_path: PathLike | None = None
) -> OSError:
    """Return the exception for an errno; its class is the one that fits: FileNotFoundError …."""
    if path is None:
        return OSError(number, os.strerror(number))
    if second_path is None:
        return OSError(number, os.strerror(number), os.fspath(path))
    return OSError(number, os.strerror(number), os.fspath(path), None, os.fspath(second_path))


def unsupported(message: str) -> io.UnsupportedOperation:
    """Return the exception for what a file is not open for."""
    return io.UnsupportedOperation(message)


async def run(program: Syslet[...], *args: Any) -> tuple[Result, asyncio.CancelledError | None]:
    """Run a program and return its result, also when it was cancelled: then with the cancellation.

    `await program(…)` forgets what a cancelled program had done. This is for those that open a
    descriptor, or move a position. The caller must raise the cancellation. Other tasks may run
    before it begins; cancelled then, it does nothing.
    """
    await checkpoint
    started = program.native.begin(running_loop(), args)
    return (started, None) if isinstance(started, Result) else await _end_of(started)


async def finish(program: Syslet[...], *args: Any) -> tuple[Result, asyncio.CancelledError | None]:
    """Run a program to its end whatever happens, and return its result like `run`.

    For what must not be left undone: closing, removing, writing what nobody has any more. Cancelling
    does not end it, and neither does closing the loop; it needs no thread of the loop's, and where the
    coroutine itself is closed, which cannot wait, or no engine can go on, it is done at once, here.
    """
    cannot_wait = isinstance(sys.exc_info()[1], GeneratorExit)
    loop = None if cannot_wait else asyncio._get_running_loop()
    started = program.native.finish(loop if isinstance(loop, Dispatcher) else None, args)
    return (started, None) if isinstance(started, Result) else await _end_of(started)


async def _end_of(started: Pending) -> tuple[Result, asyncio.CancelledError | None]:
    try:
        return (await started).result(), None
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and started.done():
            return started.result().result(), error
        # Thrown in by somebody who does not wait for the end.
        started.abandon()
        raise


def close_quietly(fd: int) -> None:
    """Close a descriptor that nobody wants."""
    try:
        os.close(fd)
    except OSError:
        pass


def is_missing(error: OSError) -> bool:
    """Say whether an error means that there is no such file, as `pathlib` sees it."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)
