"""The page of results: ``python -m benches.page RESULT.json ... > docs/benchmarks.md``.

Every figure on it comes from the raw results that it is given. With ``--plots``, the distributions
among them are drawn into ``docs/figures``; the page shows them either way.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benches import plots
from benches.peers import SUBJECT
from benches.placement import ROOT
from benches.report import disturbed, groups, number
from benches.scenario import Metric
from benches.summary import Measurement, Row, Spread

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Metrics that are zero on every machine that works; they matter only when they are not.
_QUIET = ("n_errors", "n_listen_overflows", "n_descriptors_left")
_DOCS = ROOT / "docs"

_INTRODUCTION = """\
# Benchmarks

Each scenario runs its peers alternated, in one run on one machine, each measurement in a process of its
own: the server on one CPU, the load on another. A figure is the median of its rounds. Absolute figures
belong to the machine; ratios carry over. *Lost* rows are here like the others.

`make bench` measures; `python -m benches.page --plots RESULT.json ... > docs/benchmarks.md` writes this
page and its plots. In parentheses: threadlets / peer. Above 1 is better for rates, below 1 for times.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of the given results to standard output."""
    parser = argparse.ArgumentParser(prog="python -m benches.page", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    parser.add_argument("--plots", action="store_true", help="draw the distributions (matplotlib)")
    arguments = parser.parse_args(argv)
    results = [json.loads(path.read_text()) for path in arguments.results]
    print(_INTRODUCTION)
    for line in _machine(results):
        print(line)
    for result in results:
        print("\n" + "\n".join(_section(result)))
        if arguments.plots:
            plots.draw_all(result, _DOCS / plots.DIRECTORY)
    return 0


def _machine(results: Sequence[dict[str, Any]]) -> list[str]:
    """Say what was measured where; scenarios may be of different days, commits and machines."""
    measured: dict[str, list[str]] = {}
    versions: dict[str, str] = {}
    for result in results:
        environment = result["environment"]
        versions |= environment["versions"]
        commit, _, changed = (environment["commit"] or "unknown").partition("-")
        where = (
            f"{environment['date'][:10]} at commit `{commit[:10]}`"
            f"{' with changes' if changed else ''} on {environment['cpu_model']}, "
            f"{environment['n_cpus']} CPUs, kernel {environment['kernel']}"
        )
        measured.setdefault(where, []).append(result["scenario"])
    lines = [f"- {', '.join(scenarios)}: {where}." for where, scenarios in measured.items()]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return ["Measured:", "", *lines, "", f"Versions: {listed}."]


def _section(result: dict[str, Any]) -> list[str]:
    settings = result["settings"]
    lines = [
        f"## {result['scenario']}",
        "",
        f"{result['doc']} {settings['n_rounds']} rounds of {settings['seconds']:g} s.",
    ]
    measurements = [Measurement(**stored) for stored in result["measurements"]]
    lines += [line for note in disturbed(measurements) for line in ("", f"*{note}*")]
    if legend := result.get("legend"):
        lines += ["", *(f"- {line}" for line in legend)]
    for rows, peers in groups(_rows(result), settings["peers"]):
        header = ["case", "metric", *peers, "goal"]
        lines += ["", _row(header), _row(["---"] * len(header))]
        lines += [
            _row([row.case, row.metric.name, *(_figure(row, peer) for peer in peers), _goal(row)])
            for row in rows
        ]
    lines += [line for plot in plots.of(result) for line in ("", plot.markdown)]
    return lines


def _rows(result: dict[str, Any]) -> list[Row]:
    rows = []
    for stored in result["summary"]:
        metric = Metric(**stored["metric"])
        spreads = {peer: Spread(**spread) for peer, spread in stored["spreads"].items()}
        if metric.name in _QUIET and not any(spread.median for spread in spreads.values()):
            continue
        rows.append(Row(stored["case"], metric, spreads, stored["ratios"], {}, stored["goal_met"]))
    return rows


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(row: Row, peer: str) -> str:
    if peer not in row.spreads:
        return "-"
    figure = f"{number(row.spreads[peer].median)} {row.metric.unit}"
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
