"""Run each test on the stock loop and on ours: a test that is wrong fails on both."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import threadlets

from .harness import DEADLINE_S, LoopFactory, Run, Script, end_connections

FACTORIES: dict[str, LoopFactory] = {
    "asyncio": asyncio.SelectorEventLoop,
    "threadlets": threadlets.new_event_loop,
}
FACTORY_EXPRESSIONS = {
    asyncio.SelectorEventLoop: "asyncio.SelectorEventLoop",
    threadlets.new_event_loop: "threadlets.new_event_loop",
}


@pytest.fixture(params=list(FACTORIES))
def loop_factory(request: pytest.FixtureRequest) -> LoopFactory:
    """Make a loop: the stock one, then ours."""
    return FACTORIES[request.param]


@pytest.fixture
def loop(loop_factory: LoopFactory) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that does not run yet; closed afterwards."""
    loop = loop_factory()
    yield loop
    loop.close()


@pytest.fixture
def run(loop_factory: LoopFactory) -> Run:
    """Run a coroutine on a new loop, within the deadline."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        async def within_deadline() -> Any:
            try:
                async with asyncio.timeout(DEADLINE_S):
                    return await main
            finally:
                await end_connections()

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(within_deadline())

    return run


@pytest.fixture
def script(loop_factory: LoopFactory) -> Iterator[Script]:
    """Start a Python program; in it, `new_loop` makes the loop under test."""
    started: list[subprocess.Popen[str]] = []
    expression = FACTORY_EXPRESSIONS[loop_factory]

    def start(source: str) -> subprocess.Popen[str]:
        prelude = f"import asyncio, threadlets\nnew_loop = {expression}\n"
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", prelude + textwrap.dedent(source)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
