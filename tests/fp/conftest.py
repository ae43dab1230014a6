"""Every test begins and ends in the default floating-point state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from threadlets import fp

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def known_state() -> Iterator[None]:
    """Fail where a test, or what it tests, leaves its thread's state changed."""
    assert "" == fp.state().changes
    yield
    assert "" == fp.state().changes
