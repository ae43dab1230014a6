"""The page of results: ``python -m benches.page RESULT.json ... > docs/benchmarks.md``.

Every figure on it comes from the raw results that it is given.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benches.peers import SUBJECT
from benches.report import number

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Metrics that are zero on every machine that works; they matter only when they are not.
_QUIET = ("n_errors", "n_listen_overflows")

_INTRODUCTION = """\
# Benchmarks

Each scenario runs its peers alternated, in one run on one machine, each measurement in a process of its
own: the server on one CPU, the load on another. A figure is the median of its rounds. Absolute figures
belong to the machine; ratios carry over. *Lost* rows are here like the others.

`make bench` measures; `python -m benches.page RESULT.json ... > docs/benchmarks.md` writes this page.
Ratios are threadlets / peer: above 1 is better for rates, below 1 for times.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of the given results to standard output."""
    parser = argparse.ArgumentParser(prog="python -m benches.page", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    results = [json.loads(path.read_text()) for path in parser.parse_args(argv).results]
    print(_INTRODUCTION)
    for line in _machine(results[0]):
        print(line)
    for result in results:
        print("\n" + "\n".join(_section(result)))
    return 0


def _machine(result: dict[str, Any]) -> list[str]:
    environment = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return [
        f"Measured {environment['date'][:10]} at commit `{environment['commit'][:10]}` on "
        f"{environment['cpu_model']}, {environment['n_cpus']} CPUs, "
        f"kernel {environment['kernel']}; {versions}."
    ]


def _section(result: dict[str, Any]) -> list[str]:
    settings = result["settings"]
    peers = settings["peers"]
    others = [peer for peer in peers if peer != SUBJECT]
    header = ["case", "metric", *peers, *(f"vs {peer}" for peer in others), "goal"]
    lines = [
        f"## {result['scenario']}",
        "",
        f"{result['doc']} {settings['n_rounds']} rounds of {settings['seconds']:g} s.",
        "",
        _row(header),
        _row(["---"] * len(header)),
    ]
    for row in result["summary"]:
        medians = {peer: spread["median"] for peer, spread in row["spreads"].items()}
        metric = row["metric"]
        if metric["name"] in _QUIET and not any(medians.values()):
            continue
        figures = [_figure(medians.get(peer), metric["unit"]) for peer in peers]
        ratios = [_ratio(row, peer) for peer in others]
        lines.append(_row([row["case"], metric["name"], *figures, *ratios, _goal(row)]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{number(value)} {unit}"


def _ratio(row: dict[str, Any], peer: str) -> str:
    ratio = row["ratios"].get(peer)
    if ratio is None:
        return "-"
    loses = ratio < 1 if row["metric"]["better"] == "higher" else ratio > 1
    return f"*{ratio:.2f} lost*" if loses and round(ratio, 2) != 1 else f"{ratio:.2f}"


def _goal(row: dict[str, Any]) -> str:
    goal = row["metric"]["goal"]
    if goal is None:
        return ""
    return f"{goal} {'met' if row['goal_met'] else '*missed*'}"


if __name__ == "__main__":
    sys.exit(main())
