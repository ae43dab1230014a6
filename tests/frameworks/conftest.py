"""Runners: run a body on a threadlets loop, also with threadlets in anyio, or on the stock loop."""

from __future__ import annotations

import asyncio
import os
import re
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
    """Return a function that runs a body on a threadlets loop, with threadlets in anyio."""
    with use_threadlets_in_anyio():
        yield run_on_threadlets


@pytest.fixture
def run_on_threadlets() -> Run:
    """Return a function that runs a body on a threadlets loop."""
    return lambda main: _run(threadlets.new_event_loop, main)


@pytest.fixture
def run_on_stock_loop() -> Run:
    """Return a function that runs a body on asyncio's own loop."""
    return lambda main: _run(asyncio.SelectorEventLoop, main)


@pytest.fixture(params=["run_on_threadlets", "run_on_stock_loop"])
def run_on_both(request: pytest.FixtureRequest) -> Any:
    """Return a function that runs a body on a threadlets loop, or on the stock loop."""
    return request.getfixturevalue(request.param)


def _run(loop_factory: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[Any, Any, T]) -> T:
    """Run a body; fail if it misses its deadline or its loop's exception handler is called."""
    upsets: list[dict[str, Any]] = []

    async def body() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: upsets.append(context))
        async with asyncio.timeout(DEADLINE_S):
            return await main

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        result = runner.run(body())
    assert [] == upsets
    return result


class Gate:
    """A function that blocks until the gate is opened, with counts of its calls and returns."""

    def __init__(self) -> None:
        self._is_open = threading.Event()
        self.n_arrived = 0
        self.n_passed = 0

    def wait(self, *_args: object) -> int:
        """Block until the gate is opened; return the thread's identifier."""
        self.n_arrived += 1
        assert self._is_open.wait(DEADLINE_S), "the gate was not opened"
        self.n_passed += 1
        return threading.get_ident()

    def open(self) -> None:
        self._is_open.set()

    async def arrivals(self, n_arrived: int) -> None:
        """Let the loop run until `n_arrived` calls have begun."""
        while self.n_arrived < n_arrived:
            await asyncio.sleep(0)


@pytest.fixture
def is_in_place(start: str) -> Callable[[str], bool]:
    """Return a predicate on thread names: does a function that does not block run there?"""
    if start == "inline":
        return lambda name: name == "MainThread"
    return lambda name: name.startswith("threadlets-")


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Provide a closed gate, which is opened at the latest when the test ends."""
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def forget(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes a package look as if it were not installed."""

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
def serve_example(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return a function that serves an example by `threadlets serve`, and returns its address."""
    servers: list[tuple[subprocess.Popen[bytes], Path]] = []

    def serve(target: str, *options: str) -> str:
        command = [sys.executable, "-m", "threadlets", "serve", target, "--port", "0", *options]
        # A file, not a pipe: a server that writes much would block once the pipe is full.
        output = tmp_path / f"output-{len(servers)}"
        with output.open("wb") as file:
            server = subprocess.Popen(
                [*command, "--app-dir", str(_ROOT)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        servers.append((server, output))
        return _address_in_output(server, output)

    yield serve
    for server, output in servers:
        server.send_signal(signal.SIGTERM)
        try:
            assert 0 == server.wait(DEADLINE_S), output.read_text()
        finally:
            server.kill()


def _address_in_output(server: subprocess.Popen[bytes], output: Path) -> str:
    deadline_s = time.monotonic() + DEADLINE_S
    while (found := re.search(r"on (http://[\d.]+:\d+)", output.read_text())) is None:
        assert server.poll() is None, f"the server ended:\n{output.read_text()}"
        late = f"no address within {DEADLINE_S} s:\n{output.read_text()}"
        assert time.monotonic() < deadline_s, late
        time.sleep(0.01)
    return found[1]
