"""Every test begins and ends in the default floating-point state, and with the same signal mask."""

from __future__ import annotations

import signal
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


@pytest.fixture(autouse=True)
def same_signal_mask() -> Iterator[None]:
    """Put the signal mask back that a test, which may have failed, has left changed."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
