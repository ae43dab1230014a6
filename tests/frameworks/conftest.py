"""Runners: a body on a threadlets loop with anyio's worker threads replaced, or on the stock loop."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
import threadlets
from threadlets.frameworks import use_threadlets_in_anyio

T = TypeVar("T")
DEADLINE_S = 30.0
_ROOT = Path(__file__).parents[2]


class Run(Protocol):
    """Run a coroutine to its end on a new loop and return its result."""

    def __call__(self, main: Coroutine[Any, Any, T]) -> T: ...


@pytest.fixture
def run(run_on_threadlets: Run) -> Iterator[Run]:
    """Return what runs a body on a threadlets loop, with threadlets in anyio."""
    with use_threadlets_in_anyio():
        yield run_on_threadlets


@pytest.fixture
def run_on_threadlets() -> Run:
    """Return what runs a body on a threadlets loop."""
    return lambda main: _run(threadlets.new_event_loop, main)


@pytest.fixture
def run_on_stock_loop() -> Run:
    """Return what runs a body on asyncio's own loop."""
    return lambda main: _run(asyncio.SelectorEventLoop, main)


@pytest.fixture(params=["run_on_threadlets", "run_on_stock_loop"])
def run_on_both(request: pytest.FixtureRequest) -> Any:
    """Return what runs a body on a threadlets loop, and on the stock loop."""
    return request.getfixturevalue(request.param)


def _run(loop_factory: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, T]) -> T:
    """Run a body, and fail it if it upsets its loop or misses its deadline."""
    upsets: list[dict[str, Any]] = []

    async def body() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: upsets.append(context))
        async with asyncio.timeout(DEADLINE_S):
            return await main

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        result = runner.run(body())
    assert upsets == []
    return result


class Gate:
    """A function that blocks until the gate is opened, and counts who has come to it."""

    def __init__(self) -> None:
        self._is_open = threading.Event()
        self.n_arrived = 0
        self.n_passed = 0

    def wait(self, *_args: object) -> int:
        """Block, and return the thread."""
        self.n_arrived += 1
        assert self._is_open.wait(DEADLINE_S), "nobody has opened the gate"
        self.n_passed += 1
        return threading.get_ident()

    def open(self) -> None:
        self._is_open.set()

    async def arrivals(self, n_arrived: int) -> None:
        """Let the loop run until so many have come."""
        while self.n_arrived < n_arrived:
            await asyncio.sleep(0)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Return a closed gate, open at the latest when the test ends."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what makes a package look as if it were not installed."""

    class FindsNothing:
        @staticmethod
        def find_spec(*_args: object) -> None:
            return None

    def forget(package: str) -> None:
        for module in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setattr(sys, "meta_path", [FindsNothing])

    return forget


@pytest.fixture
def serve_example() -> Iterator[Callable[[str], str]]:
    """Start `threadlets serve` with an example and return its address."""
    servers: list[subprocess.Popen[bytes]] = []

    def serve(target: str) -> str:
        command = [sys.executable, "-m", "threadlets", "serve", target, "--port", "0"]
        server = subprocess.Popen(
            [*command, "--app-dir", str(_ROOT)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        servers.append(server)
        return _address_in_output(server)

    yield serve
    for server in servers:
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=DEADLINE_S)
        assert server.returncode == 0, output.decode()


def _address_in_output(server: subprocess.Popen[bytes]) -> str:
    assert server.stdout is not None
    output = ""
    deadline_s = time.monotonic() + DEADLINE_S
    while (found := re.search(r"on (http://[\d.]+:\d+)", output)) is None:
        readable, _, _ = select.select([server.stdout], [], [], deadline_s - time.monotonic())
        assert readable, f"no address within {DEADLINE_S} s:\n{output}"
        data = os.read(server.stdout.fileno(), 65536)
        assert data, f"the server ended:\n{output}"
        output += data.decode()
    return found[1]
