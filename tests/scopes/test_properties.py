"""Properties: whatever happens to scopes of any kind, nothing is lost or left over.

THREADLETS_CASES=100000 runs that many programs by seed, from THREADLETS_SEED on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
import threadlets
from hypothesis import HealthCheck, given, settings
from threadlets import Pool

from .program import Program
from .strategies import Case, case_of, cases

_N_PER_LOOP = 500
_N_CASES = int(os.environ.get("THREADLETS_CASES", "1500"))
_SEED = int(os.environ.get("THREADLETS_SEED", "0"))


_ENOUGH: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}
# Use the same cases each time; only the long profile draws them at random.
_CASES = (
    settings(max_examples=10_000, **_ENOUGH)
    if os.environ.get("HYPOTHESIS_PROFILE") == "long"
    else settings(max_examples=400, derandomize=True, **_ENOUGH)
)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Run many cases on one loop."""
    with asyncio.Runner(loop_factory=threadlets.new_event_loop) as runner:
        yield runner


async def _violations(case: Case) -> list[str]:
    return await Program(case, Pool(limit=2)).run()


@_CASES
@given(case=cases())
def test_whatever_happens_to_scopes_every_claim_holds(runner: asyncio.Runner, case: Case) -> None:
    """One end for each request, within its scope; each clean-up once; all errors; an empty ledger."""
    assert [] == runner.run(_violations(case))


@pytest.mark.timeout(3600)
def test_whatever_happens_to_very_many_scopes_every_claim_holds() -> None:
    """The same for programs by seed, which are faster to draw; failures are reported by seed."""
    failed: dict[int, list[str]] = {}
    for first in range(_SEED, _SEED + _N_CASES, _N_PER_LOOP):
        with asyncio.Runner(loop_factory=threadlets.new_event_loop) as runner:
            for seed in range(first, min(first + _N_PER_LOOP, _SEED + _N_CASES)):
                if violations := runner.run(_violations(case_of(seed))):
                    failed[seed] = violations
                    break  # What this case has left would be reported of the next one.
        if len(failed) > 10:
            break
    assert {} == failed
