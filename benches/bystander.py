"""The bystander: a process beside the server that needs the CPU for a moment each millisecond.

``python -m benches.bystander SECONDS`` sleeps until one deadline after the other, records how late it
woke, and prints the lateness as JSON.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import sys
import time

from benches.histogram import histogram, quantile
from benches.scenario import Reading

_PERIOD_NS = 1_000_000
_TIMER_ABSTIME = 1
_PR_SET_TIMERSLACK = 29


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def main(seconds: str) -> None:
    """Record the lateness for the given time, and print it."""
    gc.disable()
    late_us = sorted(_lateness_us(float(seconds)))
    figures = {
        "late_us_p50": quantile(late_us, 0.5),
        "late_us_p99": quantile(late_us, 0.99),
        "late_us_max": late_us[-1],
        "n_wakeups": float(len(late_us)),
    }
    print(json.dumps(dataclasses.asdict(Reading(figures, {"late": histogram(late_us)}))))


def _lateness_us(seconds: float) -> list[float]:
    """Sleep until absolute times, with the least slack; a deadline that has passed is skipped."""
    libc = ctypes.CDLL(None, use_errno=True)
    # The kernel may delay a timer by the slack to join it with others; the default is 50 us.
    libc.prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
    sleep_until = libc.clock_nanosleep
    clock = time.CLOCK_MONOTONIC
    deadline = _Timespec()
    address = ctypes.byref(deadline)
    late_us = []
    started_ns = time.monotonic_ns()
    deadline_ns = started_ns
    while deadline_ns < started_ns + seconds * 1e9:
        deadline_ns += _PERIOD_NS
        deadline.seconds, deadline.nanoseconds = divmod(deadline_ns, 1_000_000_000)
        sleep_until(clock, _TIMER_ABSTIME, address, None)
        woke_ns = time.monotonic_ns()
        late_us.append((woke_ns - deadline_ns) / 1e3)
        deadline_ns += (woke_ns - deadline_ns) // _PERIOD_NS * _PERIOD_NS
    return late_us


if __name__ == "__main__":
    main(*sys.argv[1:])
