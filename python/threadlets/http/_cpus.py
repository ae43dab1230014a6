"""How many CPUs this process may use: its affinity, and the quotas of its control groups."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_MEMBERSHIP = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


def usable_cpus(*, membership: Path = _MEMBERSHIP, root: Path = _ROOT) -> int:
    """Return how many CPUs this process may use, at least 1; a part of a CPU counts as one."""
    n_cpus: float = len(os.sched_getaffinity(0))
    for quota in _quotas(membership, root):
        n_cpus = min(n_cpus, quota)
    return max(1, math.ceil(n_cpus))


def _quotas(membership: Path, root: Path) -> Iterator[float]:
    """Yield the CPUs that each control group around this process allows."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # hierarchy:controllers:path; version 2 has hierarchy 0 and no controllers.
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # In a container, what is mounted may be the group itself: then its path is not there.
        if hierarchy == "0" and not controllers:
            for folder in _up(root, path):
                yield from _quota_v2(folder / "cpu.max")
        elif "cpu" in controllers.split(","):
            for mount in (root / "cpu", root / controllers):
                for folder in _up(mount, path):
                    yield from _quota_v1(folder)


def _up(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and of each group around it, the root last."""
    folder = root / path.lstrip("/")
    while folder != root:
        yield folder
        folder = folder.parent
    yield root


def _quota_v2(file: Path) -> Iterator[float]:
    try:
        quota, period = file.read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return


def _quota_v1(folder: Path) -> Iterator[float]:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        if quota > 0:
            yield quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return
