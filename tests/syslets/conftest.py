"""Fixtures: engines and ways of running, checks for leaks, and Hypothesis profiles.

Property tests have no deadline; HYPOTHESIS_PROFILE sets how many cases they draw.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from threadlets import _core
from threadlets.testing import use_engine

from .harness import WAYS, Carry, Peers, open_descriptors, wait_for_quiet

_ENOUGH = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
# The default profile draws the same cases each time; only the long one is random.
settings.register_profile("default", settings(max_examples=60, derandomize=True, **_ENOUGH))
settings.register_profile("long", settings(max_examples=10_000, **_ENOUGH))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

ENGINES = ["uring", "workers", "sim"]
"""The kinds of engine that tests run on."""

_CARRIERS = [
    *((way, None) for way in WAYS if not WAYS[way].needs_engine),
    *((way, kind) for kind in ENGINES for way in WAYS if WAYS[way].needs_engine),
]


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Check that the test leaves no descriptor, buffer or run behind."""
    _core.stop_engine()
    before = open_descriptors()
    yield
    wait_for_quiet()
    _core.stop_engine()
    if before != open_descriptors():
        gc.collect()
    after = open_descriptors()
    assert before == after, "the test left descriptors open, or closed others"


@pytest.fixture(params=ENGINES)
def engine_kind(request: pytest.FixtureRequest, nothing_leaks: None) -> Iterator[str]:
    """Run the test on each kind of engine."""
    with use_engine(request.param):
        yield request.param
        wait_for_quiet()


@pytest.fixture(params=[kind for kind in ENGINES if kind != "sim"])
def clocked_engine(request: pytest.FixtureRequest, nothing_leaks: None) -> Iterator[str]:
    """Run the test on each kind of engine whose clock is the real one."""
    with use_engine(request.param):
        yield request.param
        wait_for_quiet()


@pytest.fixture(params=_CARRIERS, ids=lambda it: it[0] if it[1] is None else f"{it[1]}-{it[0]}")
def carry(request: pytest.FixtureRequest, nothing_leaks: None) -> Iterator[Carry]:
    """Return a function that runs a program to its result, for each way of running it."""
    way, kind = request.param
    with contextlib.nullcontext() if kind is None else use_engine(kind):
        yield WAYS[way].carry
        wait_for_quiet()


@pytest.fixture
def peers(nothing_leaks: None) -> Iterator[Peers]:
    """Return what calls functions in threads, which are joined at the end of the test."""
    peers = Peers()
    yield peers
    peers.join()


@pytest.fixture
def pair(nothing_leaks: None) -> Iterator[Callable[..., tuple[socket.socket, socket.socket]]]:
    """Make pairs of connected sockets, which are closed with the test."""
    with contextlib.ExitStack() as stack:

        def pair(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
            ends = socket.socketpair(socket.AF_UNIX, kind)
            for end in ends:
                stack.enter_context(end)
            return ends

        yield pair


@pytest.fixture
def pipe(nothing_leaks: None) -> Iterator[tuple[int, int]]:
    """Return a pipe's ends, to read from and to write to, which are closed with the test."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def half(tmp_path: Path) -> Iterator[mmap.mmap]:
    """Return memory of two pages, of which only the first one can be used."""
    path = tmp_path / "half"
    path.write_bytes(bytes(2 * mmap.PAGESIZE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 2 * mmap.PAGESIZE) as memory:
        memory[: mmap.PAGESIZE] = os.urandom(mmap.PAGESIZE)
        file.truncate(mmap.PAGESIZE)
        yield memory


@pytest.fixture
def script() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a Python program, whose process group ends with the test."""
    started: list[subprocess.Popen[str]] = []
    prelude = (
        "import asyncio, os, select, signal, socket, sys, threading, time\n"
        "import threadlets\n"
        "from threadlets import CompletionRing, engine, sweep, syslet\n"
        "from threadlets.testing import use_engine\n"
        "from threadlets.atoms import *\n"
        "from threadlets.atoms import socket as make_socket\n"
        "import socket\n"
    )

    def start(source: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            # Some programs fork while they have threads, of which Python warns.
            [
                sys.executable,
                "-uWignore:This process:DeprecationWarning",
                "-c",
                prelude + textwrap.dedent(source),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def fd_of(nothing_leaks: None) -> Iterator[Callable[..., Any]]:
    """Return a function like os.open, whose descriptors are closed with the test."""
    opened: list[int] = []

    def fd_of(path: Any, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        opened.append(os.open(path, flags, mode))
        return opened[-1]

    yield fd_of
    for fd in opened:
        with contextlib.suppress(OSError):
            os.close(fd)
