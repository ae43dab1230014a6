"""Fixtures: tests of files run on each engine, and leave no descriptor open."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import threadlets
from threadlets.testing import use_engine

ENGINES = ("uring", "workers")
"""The engines that the tests run on."""

DEADLINE_S = 60

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=ENGINES, autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on each engine."""
    with use_engine(request.param):
        yield request.param


@pytest.fixture
def run(engine: str) -> Iterator[Run]:
    """Return a function that runs a coroutine within a deadline; no descriptor may stay open."""

    async def within_deadline(main: Coroutine[Any, Any, Any]) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return await main

    before = _open_descriptors()
    yield lambda main: threadlets.run(within_deadline(main))
    gc.collect()
    assert before == _open_descriptors()


def _open_descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            what = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        # The engine's threads start on demand, and open descriptors of their own.
        if not what.startswith("anon_inode:"):
            found[name] = what
    return found
