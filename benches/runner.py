"""Measures a scenario: peers alternate within one run, and every measurement is kept."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benches import load, quiet
from benches.scenario import MeasurementFailed, NotApplicable, Reading
from benches.summary import LeftOut, Measurement, Row, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benches.scenario import Budget, Case, Scenario

FORMAT = 2
#: How often a measurement is repeated because other processes disturbed it.
_N_RETRIES = 3


@dataclass
class Kept:
    """The measurements of a run so far."""

    measurements: list[Measurement] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    #: Whether every measurement that was planned has been taken, or has failed.
    is_complete: bool = False


def order_of(peers: Sequence[str], round_idx: int) -> list[str]:
    """Return the peers' order in a round: rotated, so that none always has the same predecessor."""
    shift = round_idx % len(peers)
    return [*peers[shift:], *peers[:shift]]


def measure(
    scenario: Scenario,
    cases: Sequence[Case],
    peers: Sequence[str],
    n_rounds: int,
    budget: Budget,
    keep: Kept,
    tell: Callable[[str], None],
    patience_s: float = 0,
) -> None:
    """Measure every case in rounds and append to ``keep``, so that an interruption loses nothing.

    With ``patience_s``, wait up to so many seconds until no other process uses the machine, and
    repeat a measurement that one disturbed; the least disturbed one counts, whatever its figures are.
    """
    if scenario.two_sided:
        load.build()
    for case in cases:
        taking_part = [peer for peer in peers if case.peers is None or peer in case.peers]
        for round_idx in range(n_rounds):
            for peer in order_of(peers, round_idx):
                if peer not in taking_part:
                    continue
                tell(f"{scenario.name}/{case.name} round {round_idx + 1} of {n_rounds}: {peer}")
                try:
                    reading = _read(scenario, case, peer, budget, patience_s)
                except NotApplicable as reason:
                    taking_part.remove(peer)
                    keep.left_out.append(LeftOut(case.name, peer, str(reason)))
                    continue
                except MeasurementFailed as error:
                    measurement = Measurement(case.name, peer, round_idx, {}, str(error))
                else:
                    measurement = Measurement(
                        case.name, peer, round_idx, reading.figures, None, reading.histograms
                    )
                keep.measurements.append(measurement)
    keep.is_complete = True


def _read(scenario: Scenario, case: Case, peer: str, budget: Budget, patience_s: float) -> Reading:
    readings = []
    while True:
        quiet.wait_until_quiet(patience_s)
        before = quiet.Account.now()
        taken = scenario.measure(case, peer, budget)
        others = quiet.Account.now().others_since(before)
        reading = taken if isinstance(taken, Reading) else Reading(taken)
        reading.figures["others_busy"] = others
        readings.append(reading)
        if not patience_s or others <= quiet.OTHERS_MAX or len(readings) > _N_RETRIES:
            return min(readings, key=lambda it: it.figures["others_busy"])


def summarize_all(cases: Sequence[Case], measurements: Sequence[Measurement]) -> list[Row]:
    """Return the rows of all cases that have a measurement."""
    measured = {measurement.case for measurement in measurements}
    return [row for case in cases if case.name in measured for row in summarize(case, measurements)]


def save(
    directory: Path,
    scenario: Scenario,
    cases: Sequence[Case],
    described: dict[str, Any],
    settings: dict[str, Any],
    kept: Kept,
) -> Path:
    """Write one run of one scenario to a file of its own and return the path."""
    measurements = kept.measurements
    result = {
        "format": FORMAT,
        "scenario": scenario.name,
        "doc": scenario.doc,
        "legend": scenario.legend,
        "environment": described | {"load_average_after": os.getloadavg()},
        # What was planned: rounds and peers, the missing ones too, and the cases.
        "settings": settings,
        "is_complete": kept.is_complete,
        "cases": [dataclasses.asdict(case) for case in cases],
        "left_out": [dataclasses.asdict(left_out) for left_out in kept.left_out],
        "summary": [dataclasses.asdict(row) for row in summarize_all(cases, measurements)],
    }
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    stamp = f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z"
    suffix = "" if kept.is_complete else ".incomplete"
    path = directory / f"{stamp}-{scenario.name}{suffix}.json"
    path.write_text(_text(result, [dataclasses.asdict(it) for it in measurements]))
    return path


def _text(result: dict[str, Any], measurements: Sequence[dict[str, Any]]) -> str:
    """Return the JSON of a result, each measurement on a line of its own."""
    head = json.dumps(result, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(measurement)}" for measurement in measurements)
    return f'{head},\n "measurements": [\n{lines}\n ]\n}}\n'
