"""The scenario of syslets, with few of them."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import pytest

from benches import peers
from benches.placement import Placement
from benches.scenario import Budget, Case, MeasurementFailed, NotApplicable
from benches.scenarios import syslet
from benches.syslets import transitions, waiting

if TYPE_CHECKING:
    from benches.scenario import Figures

CASES = {case.parameters["load"]: case for case in reversed(syslet.SCENARIO.cases)}
_SMALL = {"n": 50, "n_atoms": 20}


def small(case: Case) -> Case:
    """Return the case with parameters that take a moment."""
    ours = {name: value for name, value in _SMALL.items() if name in case.parameters}
    return dataclasses.replace(case, parameters={**case.parameters, **ours})


def taken(load: str, peer: str) -> Figures:
    """Measure for a moment; what cannot be measured here is skipped."""
    try:
        peers.require(peer)
        return syslet.measure(small(CASES[load]), peer, Budget(0.01, Placement.of_this_machine()))
    except (NotApplicable, peers.PeerUnavailable) as reason:
        pytest.skip(str(reason))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("load", "peer"),
    [(load, peer) for load, case in CASES.items() for peer in case.peers or ()],
)
def test_load_gives_every_figure_that_it_promises(load: str, peer: str) -> None:
    """Each peer has all figures that the tables name."""
    figures = taken(load, peer)
    assert {metric.name for metric in CASES[load].metrics} <= figures.keys()


def test_atoms_that_do_not_count_are_a_failed_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program that ends early would seem fast."""
    monkeypatch.setattr(transitions, "_generator", lambda _: lambda: 3)
    with pytest.raises(MeasurementFailed, match="10 additions came to 3"):
        transitions.transitions("generator", 0.01, {"n_atoms": 20})


def test_a_call_that_does_not_wait_is_not_measured() -> None:
    """The memory of waits that have ended says nothing."""

    def ended(_idx: int) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    with pytest.raises(MeasurementFailed, match="3 of 3 did not wait"):
        peers.run("asyncio", waiting.measured(ended, 3))
