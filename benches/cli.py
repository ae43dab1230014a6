"""The command line: ``python -m benches [SCENARIO ...]``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benches import environment, page, report, results, runner
from benches.load import LoadGeneratorUnavailable
from benches.peers import CEILING, OTHERS, PEERS
from benches.placement import Placement, raise_file_limit
from benches.scenario import Budget, Case, Scenario, ScenarioUnknown, select
from benches.scenarios import ALL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benches.summary import Row

#: A median of fewer rounds is worthless.
N_ROUNDS_MIN = 3
_QUICK_SECONDS = 0.3
_LOCAL = results.DIRECTORY / "local"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios. Return 0; 1 for a failed measurement, or with --check a missed goal."""
    arguments = _parser().parse_args(argv)
    try:
        picked = select(ALL, arguments.scenarios)
    except ScenarioUnknown as error:
        print(f"benches: {error}", file=sys.stderr)
        return 2
    if arguments.list:
        _list(picked)
        return 0
    parts = [it.name for it, cases in picked if cases != it.cases]
    if arguments.publish and (arguments.quick or arguments.peers or parts):
        print(
            "benches: --publish measures whole scenarios with all their peers, and not quickly; "
            "leave out --quick, --peers and patterns of cases",
            file=sys.stderr,
        )
        return 2
    if arguments.rounds is not None and arguments.rounds < N_ROUNDS_MIN:
        print(f"benches: --rounds must be at least {N_ROUNDS_MIN}", file=sys.stderr)
        return 2
    # Exit by an exception, so that a terminated run ends its servers and keeps its measurements.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_file_limit()
    return _run(picked, arguments)


def _run(picked: Sequence[tuple[Scenario, tuple[Case, ...]]], arguments: argparse.Namespace) -> int:
    n_failed = n_missed = 0
    paths: list[Path] = []
    told: set[str] = set()
    for scenario, cases in picked:
        peers, missing = _peers_of(scenario, arguments.peers)
        for reason in set(missing.values()) - told:
            print(f"benches: {reason}", file=sys.stderr)
        told.update(missing.values())
        if not peers:
            print(f"benches: no peer of {scenario.name} is left to measure", file=sys.stderr)
            continue
        settings = _settings(scenario, peers, missing, arguments)
        try:
            path, rows, n_failures = _measure(scenario, cases, settings, arguments.json_dir)
        except LoadGeneratorUnavailable as error:
            print(f"benches: {error}", file=sys.stderr)
            return 2
        if path is not None:
            paths.append(path)
        n_failed += n_failures
        n_missed += sum(row.goal_met is False for row in rows)
    if arguments.quick:
        print("Quick run: too short to quote.")
    if not paths:
        return 2
    if arguments.publish:
        results.publish(paths, results.DIRECTORY)
        print(f"written: {page.write()}")
    return int(n_failed > 0 or (arguments.check and n_missed > 0))


def _peers_of(scenario: Scenario, wanted: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """Return the peers to measure, and the reasons why other wanted peers cannot be measured."""
    known = (*scenario.peers, CEILING)
    chosen = [peer for peer in wanted if peer in known] if wanted else scenario.peers
    peers, missing = environment.available([peer for peer in chosen if peer != CEILING])
    return [*peers, *(peer for peer in chosen if peer == CEILING)], missing


def _settings(
    scenario: Scenario, peers: list[str], missing: dict[str, str], arguments: argparse.Namespace
) -> dict[str, Any]:
    placement = Placement.of_this_machine()
    seconds = _QUICK_SECONDS if arguments.quick else arguments.seconds or scenario.seconds
    n_rounds = N_ROUNDS_MIN if arguments.quick else arguments.rounds or scenario.n_rounds
    return {
        "peers": peers,
        "peers_missing": missing,
        "n_rounds": n_rounds,
        "seconds": seconds,
        "warmup_s": Budget(seconds, placement).warmup_s,
        "quick": arguments.quick,
        "patience_s": arguments.patience,
        "server_cpu": placement.server_cpu,
        "load_cpu": placement.load_cpu,
    }


def _measure(
    scenario: Scenario, cases: Sequence[Case], settings: dict[str, Any], json_dir: Path
) -> tuple[Path | None, Sequence[Row], int]:
    """Measure, save and show a scenario; return its file, its rows and the number of failures."""
    peers, n_rounds, patience_s = (settings[it] for it in ("peers", "n_rounds", "patience_s"))
    budget = Budget(settings["seconds"], Placement.of_this_machine())
    described = environment.describe(peers)
    kept = runner.Kept()
    path: Path | None = None
    rows: Sequence[Row] = ()
    try:
        runner.measure(scenario, cases, peers, n_rounds, budget, kept, _tell, patience_s)
    finally:
        measurements = kept.measurements
        if measurements:
            path = runner.save(json_dir, scenario, cases, described, settings, kept)
            rows = runner.summarize_all(cases, measurements)
            title = f"{scenario.name}: {scenario.doc} Median of {n_rounds} [min..max]."
            _tell("")
            report.show(title, rows, peers)
            notes = [
                *report.failures(measurements),
                *report.limited_by_load(measurements),
                *report.left_out(kept.left_out),
                *report.disturbed(measurements),
            ]
            if not kept.is_complete:
                notes.append("interrupted: no page shows it")
            print(*notes, f"raw results: {path}", sep="\n")
        elif kept.left_out:
            print(f"{scenario.name}:", *report.left_out(kept.left_out), sep="\n")
    return path, rows, sum(measurement.error is not None for measurement in measurements)


def _list(picked: Sequence[tuple[Scenario, tuple[Case, ...]]]) -> None:
    for scenario, cases in picked:
        print(f"{scenario.name}: {scenario.doc}")
        for case in cases:
            print(f"  {scenario.name}/{case.name}")
            for metric in case.metrics:
                goal = f", goal {metric.goal}" if metric.goal else ""
                print(f"      {metric.name} ({metric.unit}, {metric.better} is better{goal})")


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benches",
        description="Measure threadlets against other event loops, alternated in one run.",
    )
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help="a scenario, or some of its cases ('echo/protocol-*'); by default all but experiments",
    )
    parser.add_argument(
        "--peers",
        type=_peers,
        metavar="A,B",
        help=f"of {', '.join([*PEERS, *OTHERS])}; '{CEILING}' adds the load generator's own server "
        "to protocol cases (default: all that a scenario compares)",
    )
    parser.add_argument("--rounds", type=int, help="at least 3 (default: the scenario's)")
    parser.add_argument("--seconds", type=float, help="per measurement (default: the scenario's)")
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        metavar="S",
        help="wait so long before each measurement for others to leave the machine alone, and "
        "repeat those that they disturbed (default: 0, measure at once)",
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.3 s, not for quoting")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="store the results in the repository in place of older ones, and write "
        "docs/benchmarks.md and its plots from them, if no scenario was interrupted",
    )
    parser.add_argument("--check", action="store_true", help="fail when a goal is missed")
    parser.add_argument("--list", action="store_true", help="show scenarios, cases and goals")
    parser.add_argument(
        "--json-dir",
        type=Path,
        default=_LOCAL,
        metavar="DIR",
        help="where raw results go (default: benches/results/local)",
    )
    return parser


def _peers(text: str) -> list[str]:
    peers = list(dict.fromkeys(text.split(",")))
    for peer in peers:
        if peer not in (*PEERS, *OTHERS, CEILING):
            known = ", ".join([*PEERS, *OTHERS, CEILING])
            raise argparse.ArgumentTypeError(f"{peer!r} is not one of {known}")
    return peers
