"""Functions that block until they are told to go on, and waiting for what other threads do."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import threadlets

DEADLINE_S = 20.0


class Gate:
    """A function to call that blocks, without the GIL, until the gate is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.thread: int | None = None

    def __call__(self, result: Any = None) -> Any:
        """Block; then return the argument, or raise it if it is an exception."""
        self.thread = threading.get_ident()
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._opened.wait(DEADLINE_S), "nobody opened the gate"
        if isinstance(result, Exception):
            raise result
        return result

    def open(self) -> None:
        """Let everybody through who is blocked, and whoever comes."""
        self._opened.set()


async def block_once() -> None:
    """Let one function block until the loop, which goes on meanwhile, opens its gate."""
    gate = Gate()
    task = asyncio.create_task(threadlets.call(gate))
    await gate.entered.wait()
    gate.open()
    await task


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that some other thread brings about."""
    while not condition():
        await asyncio.sleep(0.001)


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process; its status and what it wrote."""
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    return process.returncode, stdout, stderr


def line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line that a process writes."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
