"""Measure a scenario: peers take turns within one run, and every measurement is kept."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from typing import TYPE_CHECKING, Any

from benches import load
from benches.scenario import MeasurementFailed, NotApplicable
from benches.summary import Measurement, Row, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benches.scenario import Budget, Case, Scenario

FORMAT = 1


def order_of(peers: Sequence[str], round_idx: int) -> list[str]:
    """Return the peers' order in a round: rotated, so that none always follows the same one."""
    shift = round_idx % len(peers)
    return [*peers[shift:], *peers[:shift]]


def measure(
    scenario: Scenario,
    cases: Sequence[Case],
    peers: Sequence[str],
    n_rounds: int,
    budget: Budget,
    keep: list[Measurement],
    tell: Callable[[str], None],
) -> None:
    """Measure every case in rounds and append to ``keep``, so that an interruption loses nothing."""
    if scenario.two_sided:
        load.build()
    for case in cases:
        for round_idx in range(n_rounds):
            for peer in order_of(peers, round_idx):
                tell(f"{scenario.name}/{case.name} round {round_idx + 1} of {n_rounds}: {peer}")
                try:
                    figures = scenario.measure(case, peer, budget)
                except NotApplicable:
                    continue
                except MeasurementFailed as error:
                    keep.append(Measurement(case.name, peer, round_idx, {}, str(error)))
                else:
                    keep.append(Measurement(case.name, peer, round_idx, figures))


def summarize_all(cases: Sequence[Case], measurements: Sequence[Measurement]) -> list[Row]:
    """Return the rows of every case that has a measurement."""
    measured = {measurement.case for measurement in measurements}
    return [row for case in cases if case.name in measured for row in summarize(case, measurements)]


def save(
    directory: Path,
    scenario: Scenario,
    cases: Sequence[Case],
    described: dict[str, Any],
    settings: dict[str, Any],
    measurements: Sequence[Measurement],
) -> Path:
    """Write one run of one scenario to a file of its own and return the path."""
    result = {
        "format": FORMAT,
        "scenario": scenario.name,
        "doc": scenario.doc,
        "environment": described | {"load_average_after": os.getloadavg()},
        "settings": settings,
        "cases": [dataclasses.asdict(case) for case in cases],
        "measurements": [dataclasses.asdict(measurement) for measurement in measurements],
        "summary": [dataclasses.asdict(row) for row in summarize_all(cases, measurements)],
    }
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    path = directory / f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z-{scenario.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
