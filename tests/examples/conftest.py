"""The engines on which the examples run, and a count of the descriptors that they leave behind."""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadlets.testing import use_engine

# The examples are no part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))

ENGINES = ("uring", "workers")
_N_DESCRIPTORS = 4096


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: reads gigabytes; runs only with `-m slow`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.option.markexpr:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="reads gigabytes: pytest -m slow"))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on each engine; no descriptor may be open afterwards that was not open before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _N_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_N_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    before = _descriptors()
    with use_engine(request.param):
        yield request.param
    # A sweep is part of a reference cycle, and refers to descriptors of its engine.
    gc.collect()
    left = _descriptors() - before
    assert not left, f"left open: {left}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _descriptors() -> set[tuple[str, str]]:
    folder = Path("/proc/self/fd")
    return {(it, target) for it in os.listdir(folder) if (target := _target(folder / it))}


def _target(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # The descriptor of the listing itself.
        return None
