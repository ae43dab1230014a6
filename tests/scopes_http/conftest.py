"""Every test here ends with nothing outstanding, and with the descriptors that it began with."""

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
    """Compare the open descriptors before and after, and require an empty ledger of every loop."""
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
    """Return what is open, except what an engine that was started meanwhile keeps for good."""
    folder = Path("/proc/self/fd")
    found = {(it, target) for it in os.listdir(folder) if (target := _target(folder / it))}
    return {(it, target) for it, target in found if not target.startswith("anon_inode:")}


def _target(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # The listing's own descriptor.
        return None
