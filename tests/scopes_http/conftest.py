"""Every test of these ends with nothing outstanding, and with the descriptors that it began with."""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadlets.testing import no_leaks

# The examples are no part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))

_N_DESCRIPTORS = 20_000


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Compare what is open before and after, and have every loop end with an empty ledger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _N_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_N_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    before = _sockets_and_files()
    with no_leaks():
        yield
    gc.collect()
    left = _sockets_and_files() - before
    assert not left, f"left open: {left}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _sockets_and_files() -> set[tuple[str, str]]:
    """Return what is open, but for what an engine that was started meanwhile keeps for good."""
    folder = Path("/proc/self/fd")
    found = {(it, target) for it in os.listdir(folder) if (target := _target(folder / it))}
    return {(it, target) for it, target in found if not target.startswith("anon_inode:")}


def _target(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # The folder itself, while it was listed.
        return None
