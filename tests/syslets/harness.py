"""Ways to run a program, threads as its peers, and what must not be left behind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import threadlets
from threadlets import BufferPool, CompletionRing, Result, Syslet, engine, sweep
from threadlets.atoms import Flow

DEADLINE_S = 20.0

Carry = Callable[..., Result]


def within_deadline(main: Coroutine[Any, Any, Any], **options: Any) -> Any:
    """Run a coroutine on a new threadlets loop with options, for no longer than the deadline."""

    async def timed() -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return await main

    return threadlets.run(timed(), **options)


def with_every_atom(program: Syslet[...], flag: Flow) -> Syslet[...]:
    """Return the program with a flag added to each of its atoms."""
    table = program.table
    atoms = [(*atom[:4], atom[4] | flag, atom[5]) for atom in table.atoms]
    return Syslet(dataclasses.replace(table, atoms=atoms), program._debug_info)


def _run(program: Syslet[...], *args: object) -> Result:
    return program.run(*args)


def _synchronous(program: Syslet[...], *args: object) -> Result:
    return with_every_atom(program, Flow.SYNC).run(*args)


def _await(program: Syslet[...], *args: object) -> Result:
    return within_deadline(program(*args))


def _asynchronous(program: Syslet[...], *args: object) -> Result:
    return within_deadline(with_every_atom(program, Flow.ASYNC)(*args))


def _sweep(program: Syslet[...], *args: object) -> Result:
    (result,) = sweep(program, [args[0] if len(args) == 1 else args])
    return result


def _ring(program: Syslet[...], *args: object) -> Result:
    ring = CompletionRing()
    result = ring.submit(program, *args, tag="tag")
    if result is None:
        ((tag, result),) = ring.wait(1, DEADLINE_S)
        assert "tag" == tag
    assert 0 == ring.outstanding
    return result


class Way(NamedTuple):
    """A way to run a program."""

    carry: Carry
    needs_engine: bool


WAYS = {
    "run": Way(_run, False),
    "synchronous": Way(_synchronous, False),
    "await": Way(_await, True),
    "asynchronous": Way(_asynchronous, True),
    "sweep": Way(_sweep, True),
    "ring": Way(_ring, True),
}


class Peers:
    """Threads that call functions, and the exceptions that these raise."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in a new thread."""

        def body() -> None:
            try:
                function(*args)
            except BaseException as error:
                self._errors.append(error)

        self._threads.append(threading.Thread(target=body, daemon=True))
        self._threads[-1].start()

    def join(self) -> None:
        """Wait for the threads; if any of them has raised, raise one of the exceptions."""
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "a thread has not ended by the deadline"
        self._threads.clear()
        if self._errors:
            raise self._errors.pop()


def open_descriptors() -> dict[str, str]:
    """Return the numbers of this process's open descriptors, and what each refers to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # The descriptor of the listing itself.
            continue
    return found


def wait_for_quiet() -> None:
    """Wait until no run is in flight, and all buffers are back in the pool."""
    deadline = time.monotonic() + 5
    while engine().in_flight or BufferPool.default().in_use:
        if time.monotonic() > deadline:
            in_flight, in_use = engine().in_flight, BufferPool.default().in_use
            raise AssertionError(f"{in_flight} runs in flight, {in_use} bytes of buffers in use")
        # The traceback of a failed test may keep its buffers alive, in a reference cycle.
        gc.collect()
        time.sleep(0.001)


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process to end; return its status, standard output and standard error."""
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    return process.returncode, stdout, stderr


def line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line of a process's standard output, and return it."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def content_of(fd: int) -> bytes:
    """Return the whole content of a file, whatever the descriptor's position."""
    with open(f"/proc/self/fd/{fd}", "rb") as file:
        return file.read()


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Make writes beyond `size` bytes of any file fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
