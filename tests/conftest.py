"""What the tests of several packages use: a heap of their own, coroutines run within a deadline, calls
that start where the test wants them to."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import threadlets
from threadlets.aio.workers import ThreadedDispatcher

# It asks the collector who refers to its plugins and its generator, which does not show what is frozen below.
with (
    contextlib.suppress(ImportError),
    importlib.import_module("hypothesis.internal.entropy").deterministic_PRNG(),
):
    pass

_DEADLINE_S = 20.0

# Has dispatchers that are made from now on start calls so, except in pools that say otherwise.
_FORCED = """
from threadlets.aio.workers import ThreadedDispatcher

def _make(cls, *args, _make=ThreadedDispatcher.__new__, **kwargs):
    self = _make(cls, *args, **kwargs)
    self._start = {start!r}
    return self

ThreadedDispatcher.__new__ = staticmethod(_make)
"""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "starts(*starts): run with calls that start 'inline', 'beside', or as is known of their "
        "functions, 'auto'; the mark that is nearest to the test counts",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("starts")
    if marker is not None:
        metafunc.parametrize("start", marker.args, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    # Many tests collect garbage: have them look at their own objects only, not at all that pytest
    # and the tests before keep.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def start(request: pytest.FixtureRequest) -> Iterator[str]:
    """Say where calls start in this test: "auto", unless it is marked with `starts`."""
    start = getattr(request, "param", "auto")
    with pytest.MonkeyPatch.context() as patch:
        if start != "auto":
            patch.setattr(ThreadedDispatcher, "__new__", ThreadedDispatcher.__new__)
            exec(_FORCED.format(start=start), {})
        yield start


@pytest.fixture
def start_prelude(start: str) -> str:
    """Return what a program of this test begins with, so that its calls start there."""
    return "" if start == "auto" else _FORCED.format(start=start)


@pytest.fixture
def run() -> Callable[..., Any]:
    """Run a coroutine on a new threadlets loop; keywords are those of `new_event_loop`."""

    def run(main: Coroutine[Any, Any, Any], *, debug: bool = False, **options: Any) -> Any:
        async def within_deadline() -> Any:
            async with asyncio.timeout(_DEADLINE_S):
                return await main

        return threadlets.run(within_deadline(), debug=debug, **options)

    return run
