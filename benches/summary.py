"""From single measurements to medians, spreads, ratios and verdicts. Pure arithmetic."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benches.peers import SUBJECT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benches.histogram import Histogram
    from benches.scenario import Case, Figures, Metric


@dataclass(frozen=True)
class Measurement:
    """One measurement: the figures of one peer in one round, or why there are none."""

    case: str
    peer: str
    round_idx: int
    figures: Figures
    error: str | None = None
    histograms: dict[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """A peer that takes no part in a case, and why."""

    case: str
    peer: str
    reason: str


@dataclass(frozen=True)
class Spread:
    """The median of the rounds, and their extremes."""

    median: float
    smallest: float
    largest: float
    n_rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Row:
    """One metric of one case: every peer's spread, and the subject's ratios against the others."""

    case: str
    metric: Metric
    spreads: dict[str, Spread]
    #: The ratio of the medians, subject / peer. Above 1 is a win where higher is better.
    ratios: dict[str, float]
    #: The same ratio round by round: measurements of one round share the machine's condition.
    ratio_spreads: dict[str, Spread]
    goal_met: bool | None

    def is_win(self, peer: str) -> bool:
        """Tell whether the subject is better than the peer."""
        ratio = self.ratios[peer]
        return ratio > 1 if self.metric.better == "higher" else ratio < 1


def summarize(case: Case, measurements: Sequence[Measurement]) -> list[Row]:
    """Return a row per metric, from the measurements that have it."""
    return [_row(case, metric, measurements) for metric in case.metrics]


def _row(case: Case, metric: Metric, measurements: Sequence[Measurement]) -> Row:
    rounds: dict[str, dict[int, float]] = {}
    for measurement in measurements:
        if measurement.case == case.name and metric.name in measurement.figures:
            by_round = rounds.setdefault(measurement.peer, {})
            by_round[measurement.round_idx] = measurement.figures[metric.name]
    spreads = {peer: Spread.of(list(by_round.values())) for peer, by_round in rounds.items()}
    ratios = {}
    ratio_spreads = {}
    for peer, spread in spreads.items():
        if peer == SUBJECT or SUBJECT not in spreads or spread.median <= 0:
            continue
        ratios[peer] = spreads[SUBJECT].median / spread.median
        paired = [
            rounds[SUBJECT][idx] / value
            for idx, value in rounds[peer].items()
            if idx in rounds[SUBJECT] and value > 0
        ]
        if paired:
            ratio_spreads[peer] = Spread.of(paired)
    goal = metric.parsed_goal
    figure = spreads[SUBJECT].median if SUBJECT in spreads else None
    medians = {peer: spread.median for peer, spread in spreads.items()}
    goal_met = None if goal is None else goal.met(figure, medians)
    return Row(case.name, metric, spreads, ratios, ratio_spreads, goal_met)
