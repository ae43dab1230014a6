"""The machine and the software that a result was measured on."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benches.peers import PeerUnavailable, require, versions
from benches.placement import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

_CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def describe(peers: Sequence[str]) -> dict[str, Any]:
    """Return what identifies this machine, this interpreter, these peers and this commit."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu_model": cpu_model(Path("/proc/cpuinfo")),
        "n_cpus": os.cpu_count(),
        "cpus_allowed": sorted(os.sched_getaffinity(0)),
        "governor": _read(_CPU),
        "open_files_max": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "somaxconn": _read(Path("/proc/sys/net/core/somaxconn")),
        "python": sys.version,
        "python_optimized": "--enable-optimizations"
        in (sysconfig.get_config_var("CONFIG_ARGS") or ""),
        "versions": versions(peers),
        "commit": commit(),
        "load_average_before": os.getloadavg(),
    }


def available(peers: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split peers into those that run here and, with the reason, those that do not."""
    present = []
    missing = {}
    for peer in peers:
        try:
            require(peer)
        except PeerUnavailable as error:
            missing[peer] = str(error)
        else:
            present.append(peer)
    return present, missing


def cpu_model(cpuinfo: Path) -> str:
    """Return the CPU's name as the kernel gives it."""
    for line in (_read(cpuinfo) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "cpu model"}:
            return value.strip()
    return platform.processor() or "unknown"


def commit() -> str | None:
    """Return the checked-out commit, "-dirty" added where files differ; None outside git.

    Files that publishing writes do not count: they are results of earlier scenarios of the commit.
    """
    try:
        head = _git("rev-parse", "HEAD")
        published = (":!benches/results", ":!docs", ":!README.md")
        differs = _git("status", "--porcelain", "--", ".", *published)
        return f"{head}-dirty" if differs else head
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*args: str) -> str:
    done = subprocess.run(
        ["git", *args], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
