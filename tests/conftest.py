"""Fixtures of all test packages: a frozen heap, coroutines with a deadline, where calls start, the GIL."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import run_summary
import threadlets
from threadlets._workers.dispatchers import ThreadedDispatcher

# Done before anything is frozen below: hypothesis asks the collector which objects refer to its
# plugins and its generator, and frozen objects are not among the answers.
with (
    contextlib.suppress(ImportError),
    importlib.import_module("hypothesis.internal.entropy").deterministic_PRNG(),
):
    pass

_DEADLINE_S = 20.0

# Makes every dispatcher that is made from now on start its calls so; pools may say otherwise.
_FORCED = """
from threadlets._workers.dispatchers import ThreadedDispatcher

def _make(cls, *args, _make=ThreadedDispatcher.__new__, **kwargs):
    self = _make(cls, *args, **kwargs)
    self._start = {start!r}
    return self

ThreadedDispatcher.__new__ = staticmethod(_make)
"""


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(run_summary)
    config.addinivalue_line("markers", "needs_uring: skip the test where io_uring does not work")
    config.addinivalue_line(
        "markers",
        "starts(*starts): run the test once with each start of its calls: 'inline', 'beside', or "
        "'auto', by the history of their functions; the mark that is nearest to the test counts",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("starts")
    if marker is not None:
        metafunc.parametrize("start", marker.args, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    # Many tests collect garbage: freezing keeps what pytest and earlier tests hold out of their
    # collections.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def start(request: pytest.FixtureRequest) -> Iterator[str]:
    """Set where calls start in this test: "auto", unless it is marked with `starts`."""
    start = getattr(request, "param", "auto")
    with pytest.MonkeyPatch.context() as patch:
        if start != "auto":
            patch.setattr(ThreadedDispatcher, "__new__", ThreadedDispatcher.__new__)
            exec(_FORCED.format(start=start), {})
        yield start


@pytest.fixture
def start_prelude(start: str) -> str:
    """Return the code that begins a program of this test, to start its calls as the test does."""
    return "" if start == "auto" else _FORCED.format(start=start)


@pytest.fixture
def without_forced_switches() -> Iterator[None]:
    """Let no thread take the GIL from another one: only functions that wait release it.

    Otherwise a function that does not wait may still be made to release the GIL, and then lose the
    role. On a busy machine that happens now and then.
    """
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    yield
    sys.setswitchinterval(interval_s)


@pytest.fixture
def run() -> Callable[..., Any]:
    """Run a coroutine on a new threadlets loop; keywords are those of `new_event_loop`."""

    def run(main: Coroutine[Any, Any, Any], *, debug: bool = False, **options: Any) -> Any:
        async def within_deadline() -> Any:
            async with asyncio.timeout(_DEADLINE_S):
                return await main

        return threadlets.run(within_deadline(), debug=debug, **options)

    return run
