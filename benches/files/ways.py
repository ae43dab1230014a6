"""Ways of reading many files completely, by peer: all get the same paths and count what they read."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benches import peers
from benches.files.corpus import SIZE_MAX
from benches.peers import SUBJECT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence

    #: Reads all paths and returns the number of bytes.
    Way = Callable[[Sequence[str], Mapping[str, Any]], int]
    Read = Callable[[str], Awaitable[bytes]]


def read_by_descriptor(path: str) -> bytes:
    """Return the content of a file that is known to be small, with three system calls."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, SIZE_MAX)
    finally:
        os.close(fd)


def read_by_file(path: str) -> bytes:
    """Return the content of a file in the way that most programs do."""
    with open(path, "rb") as file:
        return file.read()


def sync(paths: Sequence[str], _parameters: Mapping[str, Any]) -> int:
    """A plain loop over system calls."""
    return sum(len(read_by_descriptor(path)) for path in paths)


def open_read(paths: Sequence[str], _parameters: Mapping[str, Any]) -> int:
    """A plain loop over ``open(path).read()``."""
    return sum(len(read_by_file(path)) for path in paths)


def pool(paths: Sequence[str], parameters: Mapping[str, Any]) -> int:
    """Map over a pool of threads."""
    with ThreadPoolExecutor(parameters["n_threads"]) as executor:
        return sum(map(len, executor.map(read_by_descriptor, paths)))


def sweep(paths: Sequence[str], parameters: Mapping[str, Any]) -> int:
    """Stream a syslet over the paths."""
    results = _threadlets().sweep(_small_file_syslet(), paths, depth=parameters["depth"])
    return sum(len(result.value) for result in results)


def _threadlets() -> Any:
    return importlib.import_module(SUBJECT)


@functools.cache
def _small_file_syslet() -> Any:
    atoms: Any = importlib.import_module(f"{SUBJECT}.atoms")

    def read_small(path: Any) -> Generator[Any, Any, Any]:
        fd = yield atoms.openat(path)
        data = atoms.buffer(SIZE_MAX)
        n = yield atoms.read(fd, data)
        yield atoms.close(fd)
        return data[:n]

    return _threadlets().syslet(read_small)


def _to_thread() -> Read:
    return lambda path: asyncio.to_thread(read_by_descriptor, path)


def _call() -> Read:
    call: Any = _threadlets().call
    return lambda path: call(read_by_descriptor, path)


def _read_file() -> Read:
    read: Read = _threadlets().read_file
    return read


def _aiofiles() -> Read:
    aiofiles: Any = importlib.import_module("aiofiles")

    async def read(path: str) -> bytes:
        async with aiofiles.open(path, "rb") as file:
            data: bytes = await file.read()
            return data

    return read


def _anyio() -> Read:
    anyio: Any = importlib.import_module("anyio")

    async def read(path: str) -> bytes:
        data: bytes = await anyio.Path(path).read_bytes()
        return data

    return read


def _on_loop(loop: str, make_read: Callable[[], Read]) -> Way:
    """Return a way in which ``n_tasks`` tasks read the files, each of them one after another."""

    def read_all(paths: Sequence[str], parameters: Mapping[str, Any]) -> int:
        return peers.run(loop, _read_all(make_read(), paths, parameters["n_tasks"]))

    return read_all


async def _read_all(read: Read, paths: Sequence[str], n_tasks: int) -> int:
    left = iter(paths)

    async def read_some() -> int:
        n_bytes = 0
        for path in left:
            n_bytes += len(await read(path))
        return n_bytes

    return sum(await asyncio.gather(*(read_some() for _ in range(n_tasks))))


WAYS: dict[str, Way] = {
    SUBJECT: sweep,
    "read-file": _on_loop(SUBJECT, _read_file),
    "call": _on_loop(SUBJECT, _call),
    "sync": sync,
    "open-read": open_read,
    "pool-32": pool,
    "asyncio": _on_loop("asyncio", _to_thread),
    "aiofiles": _on_loop("asyncio", _aiofiles),
    "anyio": _on_loop("asyncio", _anyio),
}

#: The function of threadlets that each of these ways needs.
_NEEDED = {SUBJECT: "sweep", "read-file": "read_file"}


def lacking(peer: str) -> str | None:
    """Return why this threadlets cannot read in the peer's way; None where it can."""
    needed = _NEEDED.get(peer)
    if needed is None or hasattr(_threadlets(), needed):
        return None
    return f"this threadlets has no {needed}"
