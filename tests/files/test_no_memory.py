"""Without memory for what was asked for, the caller gets an error, and the loop continues.

The cases run one after another in a process with little address space, in which an unchecked
allocation would end the process, or its loop.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

_PRELUDE = """
import asyncio, gc, os, resource, socket as sockets, sys, tempfile
import threadlets
from threadlets import BufferPool, CompletionRing, _core, sweep, syslet
from threadlets.atoms import *
from threadlets.atoms import close as close_atom, read as read_atom
from threadlets.testing import use_engine

GB = 1 << 30
sparse = tempfile.NamedTemporaryFile()
sparse.truncate(6 * GB)
PATH = sparse.name

def limit(n_bytes=80 << 20):
    # What the process has already, and this much more.
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + n_bytes, resource.RLIM_INFINITY))

async def refused(awaitable):
    try:
        await awaitable
    except MemoryError:
        return
    raise AssertionError("there was memory")

async def goes_on():
    gc.collect()
    # The loop, the engine and calls work.
    await asyncio.sleep(0.001)
    assert await threadlets.read_file("/proc/self/stat")
    assert await threadlets.call(int) == 0

async def main():
    limit()
    for name, case in cases.items():
        await case()
        await goes_on()
        print(name)

def go(engine):
    with use_engine(engine):
        threadlets.run(main())

cases = {}
"""

_CASES = {
    "whole file": "await refused(threadlets.read_file(PATH))",
    "path": "await refused(threadlets.Path(PATH).read_bytes())",
    "all of it": """
        async with threadlets.open(PATH, "rb") as file:
            await refused(file.read())
            assert await file.tell() == 0 and len(await file.read(10)) == 10
    """,
    "much of it": """
        async with threadlets.open(PATH, "rb") as file:
            await refused(file.read(5 * GB))
            assert await file.tell() == 0 and len(await file.read(10)) == 10
    """,
    "one read": """
        async with threadlets.open(PATH, "rb", buffering=0) as file:
            # There is room to read it, but not for a copy.
            await refused(file.read(48 << 20))
            assert await file.tell() == 0 and len(await file.read(10)) == 10
    """,
    "line": """
        async with threadlets.open(PATH, "rb") as file:
            await refused(file.readline())
            assert len(await file.read(10)) == 10
    """,
    "line of text": """
        async with threadlets.open(PATH) as file:
            await refused(file.readline())
    """,
    "text": """
        async with threadlets.open(PATH) as file:
            await refused(file.read())
    """,
    "lines": """
        async with threadlets.open(PATH, "rb") as file:
            await refused(file.readlines())
    """,
    "large buffer": """
        async with threadlets.open(PATH, "rb", buffering=(1 << 31) - 1) as file:
            await refused(file.read(1))
            await refused(file.peek())
    """,
    "path of any length": """
        text = "x" * (32 << 20)
        for name in (lambda: text, text.encode, lambda: threadlets.Path(text)):
            try:
                await threadlets.read_file(name())
            except (MemoryError, OSError):
                pass
    """,
    "scratch memory": """
        @syslet
        def read_some(path, size):
            fd = yield openat(path)
            data = buffer(size)
            n = yield read_atom(fd, data)
            yield close_atom(fd)
            return data[:n]

        assert (await read_some(PATH, GB)).errno == 12
        pool = BufferPool(2**63)
        ring = CompletionRing()
        for size in (GB, 2**61 + 1, 2**62 + 1):
            result = ring.submit(read_some, PATH, size, pool=pool)
            if result is None:
                result = (await ring.async_wait())[0].result
            assert result.errno == 12
        ring.close()
        assert pool.in_use == 0
        # The memory is there, but a copy of it is not.
        assert (await read_some(PATH, 36 << 20)).errno == 12
    """,
    "lease": """
        @syslet
        def leased(path, size):
            fd = yield openat(path)
            data = buffer(size)
            n = yield read_atom(fd, data)
            yield close_atom(fd)
            return lease(data[:n]), data[:n]

        assert (await leased(PATH, 36 << 20)).errno == 12
    """,
    "descriptor beside it": """
        @syslet
        def opened(path, size):
            fd = yield openat(path)
            data = buffer(size)
            n = yield read_atom(fd, data)
            return fd, data[:n]

        n_open = []
        for _ in range(3):
            result = await opened(PATH, 36 << 20)
            assert result.errno == 12 and result.value is None
            del result
            n_open.append(len(os.listdir("/proc/self/fd")))
        assert n_open[0] == n_open[2], n_open
    """,
    "sweep": """
        @syslet
        def read_some(path, size):
            fd = yield openat(path)
            data = buffer(size)
            n = yield read_atom(fd, data)
            yield close_atom(fd)
            return data[:n]

        inputs = [(PATH, 10), (PATH, 36 << 20), (PATH, 10), (PATH, GB)]
        results = [it.errno async for it in sweep(read_some, inputs, depth=1)]
        assert results == [0, 12, 0, 12], results
    """,
    "arguments of a call": """
        arguments = (0,) * (5 << 20)
        for make in (
            lambda: threadlets.call(max, *arguments),
            lambda: threadlets.Pool().call(max, *arguments),
            lambda: threadlets.call(max, *arguments, abandon_on_cancel=True),
        ):
            try:
                make()
            except MemoryError:
                pass
            else:
                raise AssertionError("there was memory")
    """,
    "unsent bytes": """
        ours, theirs = sockets.socketpair()
        loop = asyncio.get_running_loop()
        lost = loop.create_future()

        class Protocol(asyncio.Protocol):
            def connection_lost(self, error):
                lost.set_result(error)

        loop.set_exception_handler(lambda *_: None)
        transport, _ = await loop.create_connection(Protocol, sock=ours)
        data = bytearray(48 << 20)
        try:
            transport.write(data)
        except MemoryError:
            pass
        else:
            raise AssertionError("there was memory")
        # A part was sent, so the stream cannot continue without the rest.
        assert isinstance(await lost, MemoryError)
        theirs.close()
    """,
    "unsent bytes of a stream that goes on": """
        ours, theirs = sockets.socketpair()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        sent = b"x" * (1 << 20)
        transport.write(sent)
        data = bytearray(48 << 20)
        for write in (transport.write, lambda it: transport.writelines([it])):
            try:
                write(data)
            except MemoryError:
                pass
            else:
                raise AssertionError("there was memory")
        transport.close()
        theirs.setblocking(False)
        n_received = 0
        while part := await loop.sock_recv(theirs, 1 << 16):
            n_received += len(part)
        assert n_received == len(sent)
        theirs.close()
    """,
    # This case is last, because its exception keeps the data for a while.
    "constant": """
        data = b"x" * (48 << 20)

        def write_it():
            fd = yield openat("/dev/null", os.O_WRONLY)
            yield write(fd, data)
            yield close_atom(fd)

        try:
            await syslet(write_it)()
        except MemoryError:
            pass
        else:
            raise AssertionError("there was memory")
    """,
}


def test_no_memory_is_an_error_of_the_caller(engine: str) -> None:
    """The process, its loop and its engine continue."""
    source = _PRELUDE
    for name, body in _CASES.items():
        body = textwrap.indent(textwrap.dedent(body), "    ")
        source += f"\nasync def case():\n{body}\ncases[{name!r}] = case\n"
    source += f"\ngo({engine!r})\n"
    # Each thread's arena would take address space of its own.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", source]
    ended: Any = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    error = ended.stderr
    assert "" == error
    assert ended.stdout.splitlines() == [*_CASES]
