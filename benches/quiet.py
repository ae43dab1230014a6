"""Measuring on a shared machine: waits until other processes are idle, and tells whether they were.

Their load is read from the kernel's account of CPU time. Nothing here looks at the measured figures,
so that these do not decide which measurement counts.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

#: How much of one CPU other processes may use while the machine counts as quiet.
OTHERS_MAX = 0.25
_LOOK_S = 0.5
#: Fields of /proc/stat: user, nice, system, irq, softirq, steal; not idle, iowait, and the two of
#: guests, which are counted as user and nice, too.
_BUSY = (0, 1, 2, 5, 6, 7)


@dataclass(frozen=True)
class Account:
    """The CPU time used by all processes, and by this process with its children."""

    at_s: float
    all_s: float
    ours_s: float

    @classmethod
    def now(cls) -> Account:
        """Read the accounts."""
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        ticks = sum(int(fields[idx]) for idx in _BUSY)
        usages = [resource.getrusage(it) for it in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        ours_s = sum(usage.ru_utime + usage.ru_stime for usage in usages)
        return cls(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), ours_s)

    def others_since(self, before: Account) -> float:
        """Return how many CPUs other processes, or the host, kept busy meanwhile."""
        others_s = (self.all_s - before.all_s) - (self.ours_s - before.ours_s)
        return max(0.0, others_s / max(1e-9, self.at_s - before.at_s))


def wait_until_quiet(patience_s: float) -> None:
    """Wait until no other process uses the machine, for ``patience_s`` at most."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        before = Account.now()
        time.sleep(_LOOK_S)
        if Account.now().others_since(before) <= OTHERS_MAX / 2:
            return
