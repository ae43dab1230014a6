"""The scenarios of requests that are parked and cancelled, with few requests."""

from __future__ import annotations

import dataclasses
import resource
from typing import TYPE_CHECKING

import pytest

from benches import peers
from benches.placement import Placement
from benches.requests import capacity
from benches.requests.account import Cancelling, Parking, SleptTooShort
from benches.scenario import Budget, Case, MeasurementFailed, NotApplicable, Scenario
from benches.scenarios import cancel, parked, transition

if TYPE_CHECKING:
    from benches.scenario import Figures

SCENARIOS = {scenario.name: scenario for scenario in (parked.SCENARIO, cancel.SCENARIO)}
BUDGET = Budget(0.01, Placement.of_this_machine())


def loads() -> list[tuple[str, Case, str]]:
    """Return each load once for each peer, with few requests."""
    cases = {
        (scenario.name, str(case.parameters["load"])): case
        for scenario in SCENARIOS.values()
        for case in scenario.cases
    }
    return [
        (name, few(case), peer) for (name, _), case in cases.items() for peer in case.peers or ()
    ]


def few(case: Case) -> Case:
    """Return the case with requests that take a moment."""
    return dataclasses.replace(case, parameters={**case.parameters, "n": 200})


def taken(scenario: Scenario, case: Case, peer: str) -> Figures:
    """Measure for a moment; what cannot be measured here is skipped."""
    try:
        peers.require(peer)
        figures = scenario.measure(case, peer, BUDGET)
    except (NotApplicable, peers.PeerUnavailable) as reason:
        pytest.skip(str(reason))
    assert isinstance(figures, dict)
    return figures


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "case", "peer"),
    [
        pytest.param(name, case, peer, id=f"{name}-{case.parameters['load']}-{peer}")
        for name, case, peer in loads()
    ],
)
def test_load_gives_every_figure_that_it_promises(name: str, case: Case, peer: str) -> None:
    """Each peer has all figures that the tables name, and leaves no descriptor behind."""
    figures = taken(SCENARIOS[name], case, peer)
    assert {metric.name for metric in case.metrics} <= figures.keys()
    assert 0 == figures.get("n_descriptors_left", 0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("peer", transition.OTHER_LOOPS)
def test_other_loops_yield_too(peer: str) -> None:
    """Peers without an asyncio loop take part in sleep-zero, and in that alone."""
    case, *others = transition.SCENARIO.cases
    assert peer in (case.peers or ())
    assert not any(peer in (other.peers or ()) for other in others)
    assert taken(transition.SCENARIO, case, peer)["switch_ns"] > 0


@pytest.mark.timeout(60)
def test_sleeps_that_were_too_short_are_slept_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first sleeps end before the last begin, a longer attempt follows instead of a figure."""
    case = few(next(case for case in parked.SCENARIO.cases if case.name.startswith("sleep-")))
    monkeypatch.setattr(parked, "_SLEEP_S", 0)
    assert parked.measure(case, "asyncio", BUDGET)["wake_us_each"] > 0
    monkeypatch.setattr(parked, "_N_ATTEMPTS", 1)
    with pytest.raises(MeasurementFailed, match="over before all had begun"):
        parked.measure(case, "asyncio", BUDGET)


def test_sleeps_that_are_over_are_not_parked() -> None:
    """The memory of sleeps that have ended says nothing."""
    parking = Parking(1, 0.0)
    parking.creating()
    with pytest.raises(SleptTooShort):
        parking.waking_by_clock()


def test_loop_that_stands_is_noticed_by_what_wakes_late() -> None:
    """`frozen_ms` is the longest time without a tick after the first cancel, late ticks included."""
    cancelling = Cancelling(1)
    cancelling.creating()
    cancelling.tick()
    cancelling.cancelling()
    cancelling.ended()
    assert not cancelling.is_ticking
    for _ in range(3):
        cancelling.tick()
    assert cancelling.is_ticking
    assert 0 < cancelling.forgotten()["frozen_ms"] < 10_000


def test_too_little_memory_is_said_and_not_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not fit is left out, with the memory that it would need."""
    monkeypatch.setattr(capacity, "available_bytes", lambda: 1 << 30)
    capacity.require_memory("asyncio", 20_000)
    with pytest.raises(
        NotApplicable, match=r"too little memory; 1000000 requests need 9\.6 GiB, 1\.0"
    ):
        capacity.require_memory("gevent", 1_000_000)


def test_too_few_descriptors_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit below the number of sockets is no failure."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    capacity.require_descriptors(500)
    with pytest.raises(NotApplicable, match="more than the limit of 1024"):
        capacity.require_descriptors(1000)
