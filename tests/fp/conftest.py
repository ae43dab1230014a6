"""Run coroutines on a new loop within a deadline; every test begins and ends in the known state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import threadlets
from threadlets import fp

DEADLINE_S = 20.0
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def known_state() -> Iterator[None]:
    """Fail where a test, or what it tests, leaves the state of its thread changed."""
    assert fp.state().changes == ""
    yield
    assert fp.state().changes == ""


@pytest.fixture
def run() -> Run:
    """Run a coroutine on a new threadlets loop; keywords are those of `new_event_loop`."""

    def run(main: Coroutine[Any, Any, Any], *, debug: bool = False, **options: Any) -> Any:
        async def within_deadline() -> Any:
            async with asyncio.timeout(DEADLINE_S):
                return await main

        return threadlets.run(within_deadline(), debug=debug, **options)

    return run
