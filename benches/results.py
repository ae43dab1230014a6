"""Stored results: what was planned, what was measured, and what is missing from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benches.placement import ROOT
from benches.scenario import Case, Metric
from benches.summary import LeftOut, Measurement, Row, summarize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benches.scenario import Scenario

#: The results that docs/benchmarks.md shows; those of other runs are in its folder "local".
DIRECTORY = ROOT / "benches" / "results"


class Unfit(Exception):
    """A result that must not be shown as a measurement: of a quick or an interrupted run."""


@dataclass(frozen=True)
class Result:
    """One run of one scenario."""

    path: Path
    raw: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read a file.

        :raises Unfit: it is of an interrupted or a quick run, or lacks measurements.
        """
        result = cls(path, json.loads(path.read_text()))
        if result.settings.get("quick"):
            raise Unfit(f"{path.name} is of a quick run, too short to quote; measure again")
        n_planned, n_measured = result._n_planned(), len(result.measurements)
        # Format 1 does not say whether it is complete; its measurements do.
        if not result.raw.get("is_complete", n_measured >= n_planned):
            raise Unfit(
                f"{path.name} is of a run that was interrupted after {n_measured} of {n_planned} "
                f"measurements; measure again: python -m benches {result.scenario}"
            )
        return result

    @property
    def scenario(self) -> str:
        """The scenario's name."""
        return str(self.raw["scenario"])

    @property
    def settings(self) -> dict[str, Any]:
        """What was planned: peers, rounds, seconds and so on."""
        return dict(self.raw["settings"])

    @property
    def environment(self) -> dict[str, Any]:
        """The machine and the software."""
        return dict(self.raw["environment"])

    @property
    def n_rounds(self) -> int:
        """The number of rounds that were planned."""
        return int(self.settings["n_rounds"])

    @property
    def peers(self) -> list[str]:
        """The peers that took part."""
        return list(self.settings["peers"])

    @property
    def peers_missing(self) -> dict[str, str]:
        """The peers that were wanted and are not installed, with what to install."""
        return dict(self.settings.get("peers_missing", {}))

    @property
    def cases(self) -> list[Case]:
        """The cases that were planned."""
        return [_case(stored) for stored in self.raw["cases"]]

    @property
    def measurements(self) -> list[Measurement]:
        """Every measurement, including the failed ones."""
        return [Measurement(**stored) for stored in self.raw["measurements"]]

    @property
    def left_out(self) -> list[LeftOut]:
        """The peers that have no counterpart of a case, or for which the machine is too small."""
        return [LeftOut(**stored) for stored in self.raw.get("left_out", ())]

    def rows(self) -> list[Row]:
        """Return the summary of the measurements, case by case; a case without any has no rows."""
        measurements = self.measurements
        rows = [row for case in self.cases for row in summarize(case, measurements)]
        return [row for row in rows if row.spreads]

    def not_asked_for(self, known: Scenario) -> tuple[list[str], list[str]]:
        """Return the cases and the peers of the scenario that this run was not to measure."""
        cases = {case.name for case in self.cases}
        peers = {*self.peers, *self.peers_missing}
        return (
            [case.name for case in known.cases if case.name not in cases],
            [peer for peer in known.peers if peer not in peers],
        )

    def _n_planned(self) -> int:
        left_out = {(it.case, it.peer) for it in self.left_out}
        # Peers that are left out may have been measured before the reason was found.
        return sum(
            self.n_rounds
            for case in self.cases
            for peer in self.peers
            if (case.peers is None or peer in case.peers) and (case.name, peer) not in left_out
        )


def _case(stored: dict[str, Any]) -> Case:
    metrics = tuple(Metric(**metric) for metric in stored["metrics"])
    return Case(stored["name"], metrics, stored["parameters"], stored.get("peers"))


def stored(directory: Path) -> tuple[dict[str, Result], list[str]]:
    """Return the newest fit result of each scenario, and why others are unfit."""
    newest: dict[str, Result] = {}
    unfit: list[str] = []
    # In order of time, with which the names begin, so that the newest result replaces the others.
    for path in sorted(directory.glob("*.json")):
        try:
            result = Result.load(path)
        except Unfit as reason:
            unfit.append(str(reason))
        else:
            newest[result.scenario] = result
    return newest, unfit


def publish(paths: Iterable[Path], directory: Path) -> None:
    """Move results into the folder of the page; they replace those of the same scenarios.

    :raises Unfit: one of them is not fit to be shown; then nothing is moved.
    """
    results = [Result.load(path) for path in paths]
    scenarios = {result.scenario for result in results}
    for path in directory.glob("*.json"):
        if json.loads(path.read_text())["scenario"] in scenarios:
            path.unlink()
    for result in results:
        result.path.rename(directory / result.path.name)


def in_order(results: dict[str, Result], scenarios: Sequence[Scenario]) -> list[Result]:
    """Return the results in the order of the scenarios."""
    return [results[it.name] for it in scenarios if it.name in results]
