"""Memory and descriptors do not grow with the number of requests that come and go.

THREADLETS_STRESS=1 runs 100 rounds of 100,000 requests instead of a few of 20,000.
"""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

import pytest
import threadlets
from threadlets import Scope, syslet
from threadlets.atoms import timeout
from threadlets.testing import use_engine

_IS_LONG = bool(os.environ.get("THREADLETS_STRESS"))
_N_ROUNDS = 100 if _IS_LONG else 5
_N_REQUESTS = 100_000 if _IS_LONG else 20_000
_GROWTH_MAX_KB = 12_000


@syslet
def _wait(seconds):
    yield timeout(seconds)


async def _ticks(n: int) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def _fail() -> None:
    await asyncio.sleep(0)
    raise ValueError


async def _clean_up() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)


async def _round(n_requests: int) -> None:
    """Half of the requests end by themselves, the others are cancelled, and one scope fails."""
    async with Scope() as scope:
        for _ in range(n_requests // 4):
            scope.start(_ticks(1))
            scope.start(threadlets.sleep(0))
        for _ in range(20):
            scope.start(_wait, 0)
            scope.start(sum, (1, 2))
    async with Scope(timeout=60) as scope:
        for _ in range(n_requests // 4):
            scope.start(_clean_up())
            scope.start(threadlets.sleep(60))
        for _ in range(20):
            scope.start(_wait, 60)
        await _ticks(2)
        scope.cancel("the round is over")
    try:
        async with Scope() as scope:
            scope.start(_fail())
            await threadlets.sleep(60)
    except ExceptionGroup:
        pass


def _rss_kb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") // 1024


@pytest.mark.timeout(3600)
def test_memory_and_descriptors_are_flat_over_rounds_of_requests() -> None:
    """Nothing grows after the first rounds, which fill the allocators' reserves."""

    async def main() -> list[tuple[int, int]]:
        found = []
        for _ in range(_N_ROUNDS):
            await _round(_N_REQUESTS)
            gc.collect()
            found.append((_rss_kb(), len(os.listdir("/proc/self/fd"))))
        assert (1, 0, 0) == (
            threadlets.ledger().tasks,
            threadlets.ledger().waits,
            threadlets.ledger().timers,
        )
        return found

    with use_engine("workers"):
        found = threadlets.run(main())
    print(f"{_N_ROUNDS} rounds of {_N_REQUESTS}: kB, descriptors: {found[:3]} … {found[-3:]}")
    n_first = max(2, _N_ROUNDS // 10)
    first, last = found[:n_first], found[n_first:]
    assert max(n_fds for _, n_fds in first) >= max(n_fds for _, n_fds in last)
    grown_kb = max(kb for kb, _ in last) - max(kb for kb, _ in first)
    assert grown_kb < _GROWTH_MAX_KB, f"{grown_kb} kB more: {found}"
