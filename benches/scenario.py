"""What a benchmark is: a named scenario of cases, each with parameters, metrics and goals."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, Protocol

from benches.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benches.placement import Placement

Figures = dict[str, float]


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


@dataclass(frozen=True)
class Budget:
    """How long one measurement may take, and where its processes run."""

    seconds: float
    placement: Placement

    @property
    def warmup_s(self) -> float:
        """The part before counting starts."""
        return min(0.5, self.seconds / 4)


class Measure(Protocol):
    """Take one measurement in fresh processes."""

    def __call__(self, case: Case, peer: str, budget: Budget) -> Figures:
        """Return the figures by name.

        :raises MeasurementFailed: there are none.
        :raises NotApplicable: there cannot be any.
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


def select(
    scenarios: Sequence[Scenario], patterns: Sequence[str]
) -> list[tuple[Scenario, tuple[Case, ...]]]:
    """Pick scenarios and cases by ``echo`` or ``echo/protocol-*``; no pattern picks everything.

    :raises ScenarioUnknown: a pattern matches nothing.
    """
    wanted = [_split(pattern) for pattern in patterns] or [("*", "*")]
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
