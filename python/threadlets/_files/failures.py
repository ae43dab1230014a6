"""Failed results as exceptions of the `os` module; runs that return a result even if cancelled."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import sys
from typing import Any, TypeAlias

from threadlets._core import Pending, Result, checkpoint
from threadlets._running import running_dispatcher_or_none
from threadlets._syslets.program import Syslet, running_loop

PathLike: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def failure(
    result: Result, path: PathLike | None = None, second_path: PathLike | None = None
) -> OSError:
    """Return the exception for a result that is not ok, with the paths that it concerns."""
    return os_error(result.errno, path, second_path)


def read_failure(result: Result, path: PathLike | None = None) -> OSError | MemoryError:
    """Return the exception for a failed read: MemoryError if there was no memory for the data."""
    if result.errno == errno.ENOMEM:
        return MemoryError(os.strerror(errno.ENOMEM))
    return failure(result, path)


def os_error(
    number: int, path: PathLike | None = None, second_path: PathLike | None = None
) -> OSError:
    """Return the OSError for an errno, of the class that fits: FileNotFoundError …."""
    if path is None:
        return OSError(number, os.strerror(number))
    if second_path is None:
        return OSError(number, os.strerror(number), os.fspath(path))
    return OSError(number, os.strerror(number), os.fspath(path), None, os.fspath(second_path))


def unsupported(message: str) -> io.UnsupportedOperation:
    """Return the exception for an operation that a file is not open for."""
    return io.UnsupportedOperation(message)


async def run(program: Syslet[...], *args: Any) -> tuple[Result, asyncio.CancelledError | None]:
    """Run a program and return its result, with the cancellation if the task was cancelled meanwhile.

    `await program(…)` drops the result of a cancelled run. This is for programs that open a
    descriptor or move a position. The caller must raise the cancellation. Other tasks may run before
    the program begins; if the task is cancelled then, the program does not run.
    """
    await checkpoint
    started = program.native.begin(running_loop(), args)
    return (started, None) if isinstance(started, Result) else await _end_of(started)


async def finish(program: Syslet[...], *args: Any) -> tuple[Result, asyncio.CancelledError | None]:
    """Run a program to its end in any case, and return its result like `run`.

    For work that must not be left undone: closing, removing, writing the last of the data. Neither
    cancelling nor closing the loop ends it, and it needs no thread of the loop. If the coroutine is
    being closed, and so cannot wait, or if no engine works, it is performed at once in this thread.
    """
    cannot_wait = isinstance(sys.exc_info()[1], GeneratorExit)
    loop = None if cannot_wait else running_dispatcher_or_none()
    started = program.native.finish(loop, args)
    return (started, None) if isinstance(started, Result) else await _end_of(started)


async def _end_of(started: Pending) -> tuple[Result, asyncio.CancelledError | None]:
    try:
        return (await started).result(), None
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and started.done():
            return started.result().result(), error
        # Whatever threw this exception into the coroutine does not wait for the run's end.
        started.abandon()
        raise


def close_quietly(fd: int) -> None:
    """Close a descriptor, and ignore errors."""
    try:
        os.close(fd)
    except OSError:
        pass


def is_missing(error: OSError) -> bool:
    """Return whether an error means that there is no such file, by the rules of `pathlib`."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)
