"""Empties the kernel's caches of files."""

from __future__ import annotations

import os
from pathlib import Path

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def may_empty() -> bool:
    """Return whether this process may empty them; only root may."""
    return os.access(_DROP_CACHES, os.W_OK)


def empty() -> None:
    """Make the kernel forget every page, folder entry and inode that it does not need."""
    os.sync()
    _DROP_CACHES.write_text("3")
