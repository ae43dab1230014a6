"""What a server of one or more processes has used: all the processes of its session, from /proc."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(session: int) -> float:
    """Return the CPU time of all processes, threads and children that have ended, in seconds."""
    ticks = 0
    for pid in processes(session):
        fields = _stat(pid)
        # Fields 14 to 17: utime, stime, cutime, cstime. The list begins with field 3.
        ticks += sum(map(int, fields[11:15]))
    return ticks * _TICK_S


def rss_mib(session: int) -> float:
    """Return the resident memory of all processes; pages that they share count for each."""
    return sum(_status_kib(pid, "VmRSS") for pid in processes(session)) / 1024


def peak_rss_mib(session: int) -> float:
    """Return the sum of the processes' peaks."""
    return sum(_status_kib(pid, "VmHWM") for pid in processes(session)) / 1024


def slab_bytes() -> int:
    """Return the kernel's own allocations of the whole machine: sockets, buffers' heads and so on."""
    return _kib(Path("/proc/meminfo").read_text(), "Slab") * 1024


def processes(session: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            fields = _stat(int(path.name))
            if fields and int(fields[3]) == session:
                found.append(int(path.name))
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on; none if the process has ended."""
    try:
        # The command's name may hold spaces; it ends at the last parenthesis.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _status_kib(pid: int, name: str) -> int:
    try:
        return _kib(Path(f"/proc/{pid}/status").read_text(), name)
    except OSError:
        return 0


def _kib(text: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) if match else 0
