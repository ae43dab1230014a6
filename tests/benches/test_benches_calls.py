"""The loads of the `calls` scenario, small, in fresh processes as they are measured."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from benches import quiet
from benches.placement import Placement
from benches.runner import Kept, measure
from benches.scenario import Budget, Case, MeasurementFailed, NotApplicable, Reading, Scenario
from benches.scenarios import calls

if TYPE_CHECKING:
    from benches.scenario import Figures

#: The same loads with less of everything.
SMALL = {
    "n_calls": 200,
    "n_tasks": 5,
    "n_blockers": 20,
    "n_sleepers": 8,
    # Long enough for all of them to begin, even on a machine that others use.
    "sleep_ms": 100,
    "settle_ms": 10,
    "rest_ms": 1,
    "compute_ms": 5,
    "short_ms": 1,
}
LOADS = {case.parameters["load"]: case for case in reversed(calls.CASES)}


def small(case: Case) -> Case:
    """Return the case with parameters that take a moment."""
    ours = {name: value for name, value in SMALL.items() if name in case.parameters}
    return dataclasses.replace(case, parameters={**case.parameters, **ours})


def taken(case: Case, peer: str) -> Figures:
    """Measure for a moment."""
    return calls.measure(case, peer, Budget(0.01, Placement.of_this_machine())).figures


@pytest.mark.timeout(60)
@pytest.mark.parametrize("load", LOADS)
def test_load_gives_every_figure_that_it_promises(load: str) -> None:
    """Threadlets has all figures that the tables name."""
    case = small(LOADS[load])
    figures = taken(case, "threadlets")
    assert {metric.name for metric in case.metrics} <= figures.keys()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("peer", ["asyncio", "pool-64", "anyio", "direct"])
def test_every_way_works_off_the_same_load(peer: str) -> None:
    """Peers differ in how they call, and in nothing else."""
    figures = taken(small(LOADS["mixed"]), peer)
    assert figures["wall_ms"] > 0


@pytest.mark.timeout(60)
def test_memory_is_told_where_each_call_has_its_thread() -> None:
    """With 64 threads for 200 calls, memory per thread would include the calls that wait."""
    case = small(LOADS["blockers"])
    case = dataclasses.replace(case, parameters={**case.parameters, "n_blockers": 200})
    assert "rss_kib_per_thread" not in taken(case, "pool-64")


def test_peer_without_counterpart_is_not_asked() -> None:
    """A case names the peers that it compares; leaving others out is no failure."""
    asked = []

    def ask(case: Case, peer: str, budget: Budget) -> Reading:
        asked.append(peer)
        return Reading({"figure": 1.0})

    scenario = Scenario("name", "doc", (Case("case", (), peers=("a", "c")),), ask)
    budget = Budget(0.01, Placement.of_this_machine())
    measure(scenario, scenario.cases, ["a", "b", "c"], 1, budget, Kept(), lambda _: None)
    assert ["a", "c"] == asked


def test_reason_to_leave_a_peer_out_is_kept_once() -> None:
    """A peer that is not applicable is tried in the first round only."""
    n_asked = 0

    def refuse(case: Case, peer: str, budget: Budget) -> Reading:
        nonlocal n_asked
        n_asked += 1
        raise NotApplicable("a program is missing")

    scenario = Scenario("name", "doc", (Case("case", ()),), refuse)
    kept = Kept()
    budget = Budget(0.01, Placement.of_this_machine())
    measure(scenario, scenario.cases, ["a"], 3, budget, kept, lambda _: None)
    assert 1 == n_asked
    assert [] == kept.measurements
    assert ["a program is missing"] == [left_out.reason for left_out in kept.left_out]


def test_least_disturbed_measurement_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """With patience, a disturbed measurement is repeated, and its figures are dropped."""
    others = iter([0.9, 0.5, 0.8, 0.7])
    figures = iter([1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(quiet, "wait_until_quiet", lambda _: None)
    monkeypatch.setattr(quiet.Account, "others_since", lambda *_: next(others))
    scenario = Scenario(
        "name", "doc", (Case("case", ()),), lambda *_: Reading({"figure": next(figures)})
    )
    kept = Kept()
    budget = Budget(0.01, Placement.of_this_machine())
    measure(scenario, scenario.cases, ["a"], 1, budget, kept, lambda _: None, patience_s=1)
    assert [{"figure": 2.0, "others_busy": 0.5}] == [it.figures for it in kept.measurements]


def test_load_that_fails_is_a_failed_measurement() -> None:
    """The message has what the process wrote."""
    case = Case("case", (), {"load": "no-such-load", "n_cpus": 1})
    with pytest.raises(MeasurementFailed, match="KeyError"):
        taken(case, "asyncio")
