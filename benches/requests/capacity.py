"""Checks that memory and descriptors suffice for a load: no figure is better than one of swapping."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

from benches.peers import SUBJECT
from benches.scenario import NotApplicable

_GIB = 1 << 30
#: For an interpreter with its libraries, and a reserve for the rest of the machine.
_BASE_BYTES = 256 << 20
#: Descriptors that a process has anyway.
_N_DESCRIPTORS_BASE = 64


@dataclass(frozen=True)
class Need:
    """The most that one request takes, on a machine that is not fast."""

    bytes_each: int
    create_us_each: int


#: Upper estimates. They decide what is tried, and how long sleeps last; they are no results.
_NEEDS = {SUBJECT: Need(1500, 6), "trio": Need(5000, 60), "gevent": Need(10_000, 100)}
_NEED = Need(2500, 12)


def need_of(peer: str) -> Need:
    """Return the estimate for a peer."""
    return _NEEDS.get(peer, _NEED)


def require_memory(peer: str, n: int) -> None:
    """Check that so many requests of the peer fit into the free memory.

    :raises NotApplicable: they do not.
    """
    needed = n * need_of(peer).bytes_each + _BASE_BYTES
    available = available_bytes()
    if needed > available:
        raise NotApplicable(
            f"not run: too little memory; {n} requests need {needed / _GIB:.1f} GiB, "
            f"{available / _GIB:.1f} are free"
        )


def require_descriptors(n: int) -> None:
    """Check that so many sockets can be open.

    :raises NotApplicable: they cannot.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if n + _N_DESCRIPTORS_BASE > limit:
        raise NotApplicable(f"not run: {n} sockets are more than the limit of {limit} descriptors")


def available_bytes() -> int:
    """Return how much memory there is without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise NotApplicable("not run: the kernel does not say how much memory is available")
