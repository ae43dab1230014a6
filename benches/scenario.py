"""The parts of a benchmark: a named scenario of cases, each with parameters, metrics and goals."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, Protocol

from benches.goals import Goal
from benches.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benches.histogram import Histogram
    from benches.placement import Placement

Figures = dict[str, float]


@dataclass(frozen=True)
class Reading:
    """The figures of a measurement, and the distributions behind some of them."""

    figures: Figures
    #: In microseconds, by the name of what was timed.
    histograms: dict[str, Histogram] = field(default_factory=dict)


class MeasurementFailed(Exception):
    """A measurement has no result: a process failed, stalled, or answered wrongly."""


class NotApplicable(Exception):
    """The peer has no counterpart of this case; there is nothing to measure, and nothing failed."""


class ScenarioUnknown(Exception):
    """No scenario or case has this name."""


@dataclass(frozen=True)
class Metric:
    """One figure of a measurement."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    goal: str | None = None

    @property
    def parsed_goal(self) -> Goal | None:
        """The goal, if there is one."""
        return None if self.goal is None else Goal.parse(self.goal)


@dataclass(frozen=True)
class Case:
    """One row of a scenario. Figures that no metric names are kept in the raw results only."""

    name: str
    metrics: tuple[Metric, ...]
    parameters: Mapping[str, str | int] = field(default_factory=dict)
    #: Those of the scenario's peers that have a counterpart of this case; None: all of them.
    peers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Budget:
    """How long one measurement may take, and where its processes run."""

    seconds: float
    placement: Placement

    @property
    def warmup_s(self) -> float:
        """The time before counting starts."""
        return min(0.5, self.seconds / 4)


class Measure(Protocol):
    """Take one measurement in fresh processes."""

    def __call__(self, case: Case, peer: str, budget: Budget) -> Figures | Reading:
        """Return the figures by name; a reading where there are distributions to keep.

        :raises MeasurementFailed: the measurement has no result.
        :raises NotApplicable: the peer has no counterpart of this case.
        """


@dataclass(frozen=True)
class Scenario:
    """A named group of cases and the function that measures any of them."""

    name: str
    doc: str
    cases: tuple[Case, ...]
    measure: Measure
    #: Whether there is a load side, and so a ceiling to compare with.
    two_sided: bool = False
    #: The peers that are compared.
    peers: tuple[str, ...] = PEERS
    #: What the reader of the tables must know: a line for each peer or figure that needs one.
    legend: tuple[str, ...] = ()
    #: Defaults of the command line: rounds, and seconds for each measurement.
    n_rounds: int = 3
    seconds: float = 1
    #: Whether the page shows it; others are experiments behind a decision, and are run by name.
    is_published: bool = True


def select(
    scenarios: Sequence[Scenario], patterns: Sequence[str]
) -> list[tuple[Scenario, tuple[Case, ...]]]:
    """Pick scenarios and cases by ``echo`` or ``echo/protocol-*``; no pattern: all published ones.

    :raises ScenarioUnknown: a pattern matches nothing.
    """
    if not patterns:
        return [(scenario, scenario.cases) for scenario in scenarios if scenario.is_published]
    wanted = [_split(pattern) for pattern in patterns]
    for name, cases in wanted:
        if not any(_matches(scenario, case, name, cases) for scenario, case in _all(scenarios)):
            known = ", ".join(scenario.name for scenario in scenarios)
            raise ScenarioUnknown(
                f"{name}/{cases} matches no case; the scenarios are {known} (--list shows cases)."
            )
    picked = []
    for scenario in scenarios:
        matching = tuple(
            case
            for case in scenario.cases
            if any(_matches(scenario, case, name, cases) for name, cases in wanted)
        )
        if matching:
            picked.append((scenario, matching))
    return picked


def _all(scenarios: Sequence[Scenario]) -> list[tuple[Scenario, Case]]:
    return [(scenario, case) for scenario in scenarios for case in scenario.cases]


def _split(pattern: str) -> tuple[str, str]:
    name, _, cases = pattern.partition("/")
    return name, cases or "*"


def _matches(scenario: Scenario, case: Case, name: str, cases: str) -> bool:
    return fnmatchcase(scenario.name, name) and fnmatchcase(case.name, cases)
