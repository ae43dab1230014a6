"""The command line: ``python -m benches [SCENARIO ...]``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benches import environment, report, runner
from benches.load import LoadGeneratorUnavailable
from benches.peers import CEILING, PEERS
from benches.placement import ROOT, Placement, raise_file_limit
from benches.scenario import Budget, Case, Scenario, ScenarioUnknown, select
from benches.scenarios import ALL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benches.summary import Measurement

#: A median of fewer says nothing.
N_ROUNDS_MIN = 3
_QUICK_SECONDS = 0.3


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
    if arguments.rounds < N_ROUNDS_MIN:
        print(f"benches: --rounds must be at least {N_ROUNDS_MIN}", file=sys.stderr)
        return 2
    # A terminated run still ends its servers and keeps what it has measured.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_file_limit()
    return _run(picked, arguments)


def _run(picked: Sequence[tuple[Scenario, tuple[Case, ...]]], arguments: argparse.Namespace) -> int:
    loops = [peer for peer in arguments.peers if peer != CEILING]
    peers, missing = environment.available(loops)
    for reason in missing.values():
        print(f"benches: {reason}", file=sys.stderr)
    peers += [peer for peer in arguments.peers if peer == CEILING]
    if not peers:
        print("benches: no peer is left to measure", file=sys.stderr)
        return 2
    n_rounds = N_ROUNDS_MIN if arguments.quick else arguments.rounds
    seconds = _QUICK_SECONDS if arguments.quick else arguments.seconds
    placement = Placement.of_this_machine()
    budget = Budget(seconds, placement)
    settings = {
        "peers": peers,
        "peers_missing": missing,
        "n_rounds": n_rounds,
        "seconds": seconds,
        "warmup_s": budget.warmup_s,
        "quick": arguments.quick,
        "server_cpu": placement.server_cpu,
        "load_cpu": placement.load_cpu,
    }
    n_failed = n_missed = 0
    for scenario, cases in picked:
        described = environment.describe(peers)
        measurements: list[Measurement] = []
        try:
            runner.measure(scenario, cases, peers, n_rounds, budget, measurements, _tell)
        except LoadGeneratorUnavailable as error:
            print(f"benches: {error}", file=sys.stderr)
            return 2
        finally:
            if measurements:
                path = runner.save(
                    arguments.json_dir, scenario, cases, described, settings, measurements
                )
                rows = runner.summarize_all(cases, measurements)
                title = f"{scenario.name}: {scenario.doc} Median of {n_rounds} [min..max]."
                _tell("")
                report.show(title, rows, peers)
                notes = [*report.failures(measurements), *report.limited_by_load(measurements)]
                print(*notes, f"raw results: {path}", sep="\n")
                n_failed += sum(measurement.error is not None for measurement in measurements)
                n_missed += sum(row.goal_met is False for row in rows)
    if arguments.quick:
        print("Quick run: too short to quote.")
    return int(n_failed > 0 or (arguments.check and n_missed > 0))


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
        help="a scenario, or some of its cases ('echo/protocol-*'); all of them by default",
    )
    parser.add_argument(
        "--peers",
        type=_peers,
        default=list(PEERS),
        metavar="A,B",
        help=f"of {', '.join(PEERS)}; '{CEILING}' adds the load generator's own server "
        "to protocol cases (default: all loops)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="at least 3 (default: 5)")
    parser.add_argument("--seconds", type=float, default=2, help="per measurement (default: 2)")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.3 s, not for quoting")
    parser.add_argument("--check", action="store_true", help="fail when a goal is missed")
    parser.add_argument("--list", action="store_true", help="show scenarios, cases and goals")
    parser.add_argument(
        "--json-dir",
        type=Path,
        default=ROOT / "benches" / "results" / "local",
        metavar="DIR",
        help="where raw results go (default: benches/results/local)",
    )
    return parser


def _peers(text: str) -> list[str]:
    peers = list(dict.fromkeys(text.split(",")))
    for peer in peers:
        if peer not in (*PEERS, CEILING):
            raise argparse.ArgumentTypeError(f"{peer!r} is not one of {', '.join(PEERS)}")
    return peers
