"""The C program on io_uring: its build, and its command line by the name of a peer."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

from benches.placement import ROOT
from benches.scenario import MeasurementFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SOURCE = ROOT / "benches" / "files" / "uring_read.c"
BINARY = ROOT / "target" / "uring_read"

#: The mode and options of each peer.
MODES = {
    "c-sync": ("sync",),
    "uring": ("fd",),
    "uring-fixed": ("fd", "fixed"),
    "uring-plain": ("fd", "plain"),
    "uring-async": ("fd", "async"),
    "uring-fd-link": ("fd-link",),
    "uring-direct": ("direct",),
    "uring-link": ("link",),
    "uring-link-skip": ("link", "skip"),
    "uring-replace": ("replace", "skip"),
}


def build() -> Path:
    """Compile the program if its source changed, and return it.

    :raises MeasurementFailed: it does not compile.
    """
    if not BINARY.exists() or BINARY.stat().st_mtime < SOURCE.stat().st_mtime:
        BINARY.parent.mkdir(exist_ok=True)
        argv = ["cc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(BINARY), str(SOURCE)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode != 0:
            raise MeasurementFailed(f"{SOURCE} does not compile: {done.stderr.strip()[-2000:]}")
    return BINARY


def command(
    peer: str, seconds: float, paths_file: Path, parameters: Mapping[str, Any]
) -> list[str]:
    """Return the command line that reads in the peer's way."""
    mode, *options = MODES[peer]
    depth = 1 if peer == "c-sync" else parameters["depth"]
    cold = ["cold"] if parameters["cold"] else []
    return [str(build()), str(paths_file), mode, str(depth), str(seconds), *options, *cold]
