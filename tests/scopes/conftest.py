"""Run coroutines on a new loop within a deadline; and how many cases property tests draw."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import threadlets
from hypothesis import HealthCheck, settings

Run = Callable[..., Any]

DEADLINE_S = 20.0

_ENOUGH = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
# The same cases each time: chance is for the long profile.
settings.register_profile("default", settings(max_examples=400, derandomize=True, **_ENOUGH))
settings.register_profile("long", settings(max_examples=10_000, **_ENOUGH))


@pytest.fixture(autouse=True)
def profile() -> None:
    """Draw as many cases as HYPOTHESIS_PROFILE says, whichever folders are tested beside this one."""
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def run() -> Run:
    """Run a coroutine on a new threadlets loop; keywords are those of `new_event_loop`."""

    def run(main: Coroutine[Any, Any, Any], *, debug: bool = False, **options: Any) -> Any:
        async def within_deadline() -> Any:
            async with asyncio.timeout(DEADLINE_S):
                return await main

        return threadlets.run(within_deadline(), debug=debug, **options)

    return run
