"""What became of a program, told in the way of the `os` module; and programs whose end is known."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from typing import Any, TypeAlias

from threadlets._core import Result, checkpoint
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


async def run(
    program: Syslet[...], *args: Any, cleans_up: bool = False
) -> tuple[Result, asyncio.CancelledError | None]:
    """Run a program and return its result, also when it was cancelled: then with the cancellation.

    `await program(…)` forgets what a cancelled program had done. This is for those that open a
    descriptor, or move a position. Whoever calls must raise the cancellation. One that `cleans_up`
    begins whatever comes; others let other tasks run before, and do nothing if they are cancelled then.
    """
    if not cleans_up:
        await checkpoint
    started = program.native.begin(running_loop(), args)
    if isinstance(started, Result):
        return started, None
    try:
        return (await started).result(), None
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and started.done():
            return started.result().result(), error
        # Thrown in by somebody who does not wait for the end.
        started.abandon()
        raise


def is_missing(error: OSError) -> bool:
    """Say whether an error means that there is no such file, as `pathlib` sees it."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP)
