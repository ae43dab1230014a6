"""A fixture with the engines to test on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadlets.testing import use_engine


@pytest.fixture(params=["uring", "workers"])
def engine_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on each kind of engine."""
    with use_engine(request.param):
        yield request.param
