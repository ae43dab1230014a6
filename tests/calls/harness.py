"""Helpers: functions that block until a gate opens, counts of calls and threads, processes."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import threadlets
from waiting import eventually

DEADLINE_S = 20.0
#: How many calls may be made until one is inline: other work of the machine makes quick ones slow.
N_TRIES = 20_000
#: How often a test may begin anew because other work of the machine has made a quick call slow.
N_ATTEMPTS = 20

# A seccomp filter that refuses (EPERM) one system call by its number.
REFUSE = """
import ctypes, struct

def refuse(number):
    LD, JEQ, RET = 0x20, 0x15, 0x06
    allow, refuse = 0x7FFF0000, 0x00050001
    program = [(LD, 0, 0, 0), (JEQ, 0, 1, number), (RET, 0, 0, refuse), (RET, 0, 0, allow)]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    filter = Filter(len(program), ctypes.addressof(buffer))
    # seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, ...): in all threads that there are.
    assert libc.syscall(317, 1, 1, ctypes.byref(filter)) == 0, ctypes.get_errno()
"""


class Gate:
    """A function that blocks, without the GIL, until its gate is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.thread: int | None = None

    def __call__(self, result: Any = None) -> Any:
        """Block; then return the argument, or raise it if it is an exception."""
        self.thread = threading.get_ident()
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._opened.wait(DEADLINE_S), "the gate was not opened"
        if isinstance(result, Exception):
            raise result
        return result

    def open(self) -> None:
        """Let blocked calls return, and later ones return at once."""
        self._opened.set()


async def block_once() -> None:
    """Call a function that blocks until the loop, which goes on meanwhile, opens its gate."""
    gate = Gate()
    task = asyncio.create_task(threadlets.call(gate))
    await gate.entered.wait()
    gate.open()
    await task


def wait_for(gate: threading.Event) -> None:
    """Block without the GIL until the gate opens; signals are handled meanwhile."""
    assert gate.wait(DEADLINE_S), "the gate was not opened"


@contextlib.asynccontextmanager
async def home_blocked(
    function: Callable[..., object] = wait_for, *args: Any
) -> AsyncIterator[asyncio.Task[object]]:
    """Keep the home thread in a function, so that another thread runs the body.

    The function is called with a gate that opens at the end of the body, unless it has arguments of its own.
    """
    home, gate = threading.current_thread(), threading.Event()
    # Only `start="inline"` makes sure that the function begins on the home thread.
    call = threadlets.Pool(start="inline").call(function, *(args or (gate,)))
    task: asyncio.Task[object] = asyncio.get_running_loop().create_task(call)
    await eventually(lambda: threading.current_thread() is not home)
    try:
        yield task
    finally:
        gate.set()
        await task


def counts(pool: threadlets.Pool) -> dict[str, Any]:
    """Return a pool's counters, without the histories of its functions."""
    return {name: count for name, count in pool.stats().items() if name != "functions"}


def n_takeovers(stats: dict[str, Any]) -> int:
    """Return how often the role was taken over, for whatever cause."""
    return sum(count for name, count in stats.items() if name.startswith("takeovers_"))


def known(name: str, stats: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the history of one function."""
    functions = (stats or threadlets.stats())["functions"]
    [row] = [row for row in functions if row["function"].endswith(name)]
    return dict(row)


async def become_inline(call: Callable[[], Any]) -> int:
    """Make calls until one is inline, and no mistake; return how many others there were."""
    for n_others in range(N_TRIES):
        before = threadlets.stats()
        await call()
        after = threadlets.stats()
        if (
            after["calls_inline"] > before["calls_inline"]
            and after["mistakes"] == before["mistakes"]
        ):
            return n_others
    raise AssertionError("the function was never called inline")


class Switch:
    """A function that returns at once, blocks or computes, and has one history for all of it."""

    def __init__(self) -> None:
        self.gate = Gate()

    def __call__(self, does: str = "returns") -> int:
        if does == "blocks":
            self.gate()
        elif does == "computes":
            until_s = time.thread_time() + 0.05
            while time.thread_time() < until_s:
                pass
        return threading.get_ident()


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process to end; return its status and its output."""
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    return process.returncode, stdout, stderr


def line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line that a process writes, and return it."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
