"""The page of results: ``python -m benches.page`` writes docs/benchmarks.md from the stored results,
and updates the figures that README.md and docs/ quote.

Every figure comes from raw results: the newest of each scenario in benches/results. If results are
given, their page is printed instead. An interrupted run is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benches import figures, plots, report, results
from benches.peers import SUBJECT
from benches.placement import ROOT
from benches.report import groups, number
from benches.results import Result, Unfit
from benches.scenarios import ALL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benches.summary import Row

#: Metrics that are normally zero, and shown only when they are not.
_QUIET = ("n_errors", "n_listen_overflows", "n_descriptors_left")
_DOCS = ROOT / "docs"
PATH = _DOCS / "benchmarks.md"

_INTRODUCTION = """\
# Benchmarks

Each scenario runs its peers alternately, in one run on one machine, and each measurement in a process of
its own: the server on one CPU, the load on another. A figure is the median of its rounds. Absolute figures
depend on the machine; ratios carry over.

In parentheses stands the ratio threadlets / peer: above 1 is better for rates, below 1 for times. Where the
peer is better, it is marked *lost*. What was not measured is named.

`make benchmarks` measures everything anew and writes this page; `python -m benches SCENARIO` measures one
scenario.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of the stored results, or print that of the given ones; return 1 if unfit."""
    parser = argparse.ArgumentParser(prog="python -m benches.page", description=__doc__)
    parser.add_argument("results", nargs="*", type=Path, metavar="RESULT.json")
    arguments = parser.parse_args(argv)
    if not arguments.results:
        print(f"written: {write()}")
        return 0
    try:
        given = [Result.load(path) for path in arguments.results]
    except Unfit as reason:
        print(f"benches.page: {reason}", file=sys.stderr)
        return 1
    print(render(given), end="")
    return 0


def write() -> Path:
    """Write the page of the stored results, its plots, and the figures that other pages quote."""
    newest, unfit = results.stored(results.DIRECTORY)
    for reason in unfit:
        print(f"benches.page: not shown: {reason}", file=sys.stderr)
    shown = results.in_order(newest, ALL)
    PATH.write_text(render(shown))
    for path in figures.texts():
        try:
            path.write_text(figures.update(path.read_text(), newest))
        except figures.MarkWrong as error:
            print(f"benches.page: {path.name} is as it was: {error}", file=sys.stderr)
    for result in shown:
        try:
            plots.draw_all(result.raw, _DOCS / plots.DIRECTORY)
        except ImportError as error:
            print(f"benches.page: not drawn: {error}; pip install matplotlib", file=sys.stderr)
            break
    return PATH


def render(shown: Sequence[Result]) -> str:
    """Return the page of these results."""
    lines = [_INTRODUCTION]
    names = {result.scenario for result in shown}
    if absent := [it.name for it in ALL if it.is_published and it.name not in names]:
        lines += [f"Not measured yet, or not completely: {', '.join(absent)}.", ""]
    for result in shown:
        lines += [*_section(result), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _section(result: Result) -> list[str]:
    lines = [
        f"## {result.scenario}",
        "",
        f"{result.raw['doc']} {result.n_rounds} rounds of {result.settings['seconds']:g} s.",
        "",
        _where(result),
    ]
    lines += [line for note in _notes(result) for line in ("", f"*{note}*")]
    if legend := result.raw.get("legend"):
        lines += ["", *(f"- {line}" for line in legend)]
    rows = [row for row in result.rows() if not _is_quiet(row)]
    for part, peers in groups(rows, result.peers):
        header = ["case", "metric", *peers, "goal"]
        lines += ["", _row(header), _row(["---"] * len(header))]
        for row in part:
            figures = [_figure(row, peer, result.n_rounds) for peer in peers]
            lines.append(_row([row.case, row.metric.name, *figures, _goal(row)]))
    lines += [line for plot in plots.of(result.raw) for line in ("", plot.markdown)]
    return lines


def _where(result: Result) -> str:
    """Return a sentence with the date, the commit, the machine and the versions."""
    environment = result.environment
    commit, _, changed = (environment["commit"] or "unknown").partition("-")
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return (
        f"Measured on {environment['date'][:10]} at commit `{commit[:10]}`"
        f"{' with changes' if changed else ''}: {environment['cpu_model']}, "
        f"{environment['n_cpus']} CPUs, kernel {environment['kernel']}; {versions}."
    )


def _notes(result: Result) -> list[str]:
    """Return notes on what is missing from the tables, why, and what disturbed the rest."""
    notes = []
    known = next((it for it in ALL if it.name == result.scenario), None)
    cases, peers = result.not_asked_for(known) if known else ([], [])
    if cases:
        n_known = len(known.cases) if known else 0
        notes.append(f"not measured: {len(cases)} of {n_known} cases: {', '.join(cases)}")
    if peers:
        notes.append(f"not measured: the peers {', '.join(peers)}")
    notes += [f"missing: {peer}: {reason}" for peer, reason in result.peers_missing.items()]
    notes += report.left_out(result.left_out)
    measurements = result.measurements
    notes += report.failed_cases(measurements)
    return [*notes, *report.limited_by_load(measurements), *report.disturbed(measurements)]


def _is_quiet(row: Row) -> bool:
    return row.metric.name in _QUIET and not any(it.median for it in row.spreads.values())


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(row: Row, peer: str, n_rounds: int) -> str:
    if peer not in row.spreads:
        return "-"
    spread = row.spreads[peer]
    figure = f"{number(spread.median)} {row.metric.unit}"
    if spread.n_rounds < n_rounds:
        figure += f" [{spread.n_rounds} of {n_rounds} rounds]"
    if peer == SUBJECT or peer not in row.ratios:
        return figure
    ratio = f"{row.ratios[peer]:.2g}" if row.ratios[peer] < 0.1 else f"{row.ratios[peer]:.2f}"
    if not row.is_win(peer) and ratio != "1.00":
        return f"{figure} (*{ratio} lost*)"
    return f"{figure} ({ratio})"


def _goal(row: Row) -> str:
    if row.metric.goal is None:
        return ""
    verdict = {True: "met", False: "*missed*", None: "not measured"}[row.goal_met]
    return f"{row.metric.goal} {verdict}"


if __name__ == "__main__":
    sys.exit(main())
