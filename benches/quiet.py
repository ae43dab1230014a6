"""Measuring on a machine that others use: wait until they rest, and know whether they did.

What others do is read from the kernel's account of CPU time; nothing here looks at the figures that are
measured, so that nothing is chosen by them.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

#: How much of one CPU others may use while the machine counts as quiet.
OTHERS_MAX = 0.25
_LOOK_S = 0.5
#: In /proc/stat: user, nice, system, irq, softirq, stolen; not idle, iowait, and guests, which come twice.
_BUSY = (0, 1, 2, 5, 6, 7)


@dataclass(frozen=True)
class Account:
    """The CPU time that everybody has used, and that we and our children have."""

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
        """Return how many CPUs others, or the host, kept busy meanwhile."""
        others_s = (self.all_s - before.all_s) - (self.ours_s - before.ours_s)
        return max(0.0, others_s / max(1e-9, self.at_s - before.at_s))


def wait_until_quiet(patience_s: float) -> None:
    """Return when nobody else uses the machine, or when the patience is over."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        before = Account.now()
        time.sleep(_LOOK_S)
        if Account.now().others_since(before) <= OTHERS_MAX / 2:
            return
