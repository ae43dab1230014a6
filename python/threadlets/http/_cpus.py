"""How many CPUs this process may use: its affinity, and the quotas of its control groups."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from threadlets.http._control_groups import MEMBERSHIP, ROOT, group_folders


def usable_cpus(*, membership: Path = MEMBERSHIP, root: Path = ROOT) -> int:
    """Return how many CPUs this process may use, at least 1; a part of a CPU counts as one."""
    n_cpus: float = len(os.sched_getaffinity(0))
    quota = cpu_quota(membership=membership, root=root)
    return max(1, math.ceil(n_cpus if quota is None else min(n_cpus, quota)))


def cpu_quota(*, membership: Path = MEMBERSHIP, root: Path = ROOT) -> float | None:
    """Return the lowest quota of the groups around this process, in CPUs; None without any."""
    return min(_quotas(membership, root), default=None)


def _quotas(membership: Path, root: Path) -> Iterator[float]:
    """Yield the CPUs that each control group around this process allows."""
    for version, folder in group_folders("cpu", membership=membership, root=root):
        yield from _quota_v2(folder / "cpu.max") if version == 2 else _quota_v1(folder)


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
