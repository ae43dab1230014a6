"""What the tests of several packages use: a heap of their own, coroutines run within a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import threadlets

# Its plugins ask the collector who refers to what, which does not show what is frozen below.
with contextlib.suppress(ImportError):
    importlib.import_module("hypothesis")

_DEADLINE_S = 20.0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    # Many tests collect garbage: have them look at their own objects only, not at all that pytest
    # and the tests before keep.
    gc.collect()
    gc.freeze()


@pytest.fixture
def run() -> Callable[..., Any]:
    """Run a coroutine on a new threadlets loop; keywords are those of `new_event_loop`."""

    def run(main: Coroutine[Any, Any, Any], *, debug: bool = False, **options: Any) -> Any:
        async def within_deadline() -> Any:
            async with asyncio.timeout(_DEADLINE_S):
                return await main

        return threadlets.run(within_deadline(), debug=debug, **options)

    return run
