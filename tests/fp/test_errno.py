"""`errno` as ctypes keeps it belongs to a request; C's own does not cross a suspension."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import threading
from typing import Any

import pytest
import threadlets

from .harness import Gate

pytestmark = pytest.mark.starts("inline", "beside")


@pytest.mark.parametrize("debug", [False, True])
def test_each_request_reads_its_own(run: Any, debug: bool) -> None:
    """A request begins with zero and never sees another's value, not even its parent's."""

    async def sets(value: int) -> list[int]:
        found = [ctypes.get_errno()]
        ctypes.set_errno(value)
        for _ in range(3):
            await asyncio.sleep(0)
            found.append(ctypes.get_errno())
        child = asyncio.create_task(reads())
        found.append(await child)
        return found

    async def reads() -> int:
        return ctypes.get_errno()

    async def main() -> None:
        ctypes.set_errno(0)
        first, second, other = await asyncio.gather(sets(errno.EIO), sets(errno.EPERM), reads())
        assert [0, errno.EIO, errno.EIO, errno.EIO, 0] == first
        assert [0, errno.EPERM, errno.EPERM, errno.EPERM, 0] == second
        assert 0 == other

    run(main(), debug=debug)


@pytest.mark.starts("inline")
def test_errno_goes_on_with_its_request_on_another_thread(run: Any) -> None:
    """The worker that took over restores the value of each request that it resumes."""

    async def sets(gate: Gate, home: int) -> tuple[bool, int]:
        ctypes.set_errno(errno.ENOENT)
        await gate.entered.wait()
        return threading.get_ident() != home, ctypes.get_errno()

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(sets(gate, threading.get_ident()))
        await asyncio.sleep(0)
        blocked = asyncio.create_task(threadlets.call(gate))
        assert (True, errno.ENOENT) == await task
        gate.open()
        await blocked
        assert 0 == ctypes.get_errno()

    run(main())


libc = ctypes.CDLL(None)
libc.__errno_location.restype = ctypes.POINTER(ctypes.c_int)


@pytest.mark.parametrize("debug", [False, True])
def test_cs_own_errno_does_not_cross_a_suspension(run: Any, debug: bool) -> None:
    """The next request, which may be the same one, finds nothing that a C call has left."""
    found: dict[str, int] = {}

    def read(name: str) -> None:
        found[name] = libc.__errno_location()[0]

    async def fails() -> None:
        assert -1 == libc.close(-1)
        read("at once")
        await asyncio.sleep(0)
        read("resumed")

    async def reads() -> None:
        read("another task")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(fails())
        loop.call_soon(read, "callback")
        await asyncio.create_task(reads())
        await task
        assert -1 == libc.close(-1)
        loop.call_soon(read, "after main")
        await asyncio.sleep(0)

    run(main(), debug=debug)
    others = dict.fromkeys(("callback", "another task", "resumed", "after main"), 0)
    assert found == {"at once": errno.EBADF} | others
