"""A pytest plugin: a test fails unless the ledger of every loop that it used ends at zero.

Enable it in a conftest.py with `pytest_plugins = ["threadlets.testing.plugin"]`. Mark a test that
leaves something on purpose with `@pytest.mark.leaks`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from threadlets.testing._leaks import no_leaks


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "leaks: the test leaves requests or descriptors behind")


@pytest.fixture(autouse=True)
def threadlets_ledger(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves something outstanding on a threadlets loop."""
    if request.node.get_closest_marker("leaks") is not None:
        yield
        return
    with no_leaks():
        yield
