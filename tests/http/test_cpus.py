"""How many CPUs `--workers auto` finds: affinity, and quotas of control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from threadlets.http._cpus import usable_cpus


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process run on eight CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def _usable(folder: Path, membership: str, files: dict[str, str]) -> int:
    (folder / "membership").write_text(membership)
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return usable_cpus(membership=folder / "membership", root=folder / "groups")


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/not/mounted\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 8),
        (
            "4:cpu,cpuacct:/a\n0::/\n",
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            "4:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            8,
        ),
    ],
)
def test_the_lowest_limit_counts(
    tmp_path: Path, membership: str, files: dict[str, str], expected: int
) -> None:
    """Of the groups around the process, too; a part of a CPU counts as one."""
    assert expected == _usable(tmp_path, membership, files)


def test_this_machine_has_one_at_least() -> None:
    """Whatever its control groups are."""
    assert 1 <= usable_cpus() <= 8
