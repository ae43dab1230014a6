"""Run each test with asyncio's own tasks and with ours: a claim that is wrong fails on both."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import textwrap
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import threadlets

from .harness import DEADLINE_S, LoopFactory, Run, Script

FACTORIES: dict[str, LoopFactory] = {
    "asyncio": asyncio.SelectorEventLoop,
    "native": threadlets.new_event_loop,
    "switched": functools.partial(threadlets.new_event_loop, tasks="asyncio"),
}
EXPRESSIONS = {
    "asyncio": "asyncio.SelectorEventLoop",
    "native": "threadlets.new_event_loop",
    "switched": "lambda: threadlets.new_event_loop(tasks='asyncio')",
}


@pytest.fixture(params=list(FACTORIES))
def kind(request: pytest.FixtureRequest) -> str:
    """Return whose tasks are under test: the stock loop's, ours, or asyncio's on our loop."""
    return str(request.param)


@pytest.fixture
def loop_factory(kind: str) -> LoopFactory:
    """Return the factory of the loops under test."""
    return FACTORIES[kind]


@pytest.fixture
def loop(loop_factory: LoopFactory) -> Iterator[asyncio.AbstractEventLoop]:
    """Return a loop that does not run yet; it is closed afterwards."""
    loop = loop_factory()
    yield loop
    loop.close()


@pytest.fixture
def run(loop_factory: LoopFactory) -> Run:
    """Run a coroutine on a new loop, within the deadline."""

    def run(main: Coroutine[Any, Any, Any], *, debug: bool = False) -> Any:
        async def within_deadline() -> Any:
            async with asyncio.timeout(DEADLINE_S):
                return await main

        with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
            return runner.run(within_deadline())

    return run


@pytest.fixture
def script(kind: str) -> Iterator[Script]:
    """Run a Python program to its end; in it, `new_loop` makes the loop under test."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str) -> tuple[int, str, str]:
        prelude = f"import asyncio, gc, os, sys, threadlets\nnew_loop = {EXPRESSIONS[kind]}\n"
        process = subprocess.Popen(
            [sys.executable, "-c", prelude + textwrap.dedent(source)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        stdout, stderr = process.communicate(timeout=DEADLINE_S)
        return process.returncode, stdout, stderr

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()
