"""Start the site, put a realistic load on it, and report: ``python -m examples.site.demo``.

At the end comes a storm: 80,000 requests of 8,000 clients at a time, each on a connection of its own.
Exit status: 0 when every request was answered and the server stopped cleanly, else 1.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

import threadlets
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .load import Outcome, Plan, new_outcome, put_load
from .load_http import Endpoint
from .server_process import Cost, ServerFailed, ServerProcess
from .storm import Result, Storm, StormFailed, blow, contenders, load_name, n_waiting_max
from .storm_chart import chart

_HOST = "127.0.0.1"
_N_DESCRIPTORS_SPARE = 100
_PLAIN_INTERVAL_S = 2.0


@dataclass(frozen=True)
class Costs:
    """The CPU seconds of both sides during the load, and the server's memory and threads."""

    before: Cost
    after: Cost
    load_cpu_s: float


def main() -> int:
    options = _parse_options()
    console = Console(width=None if sys.stdout.isatty() else 110)
    plan = Plan(
        n_connections=_affordable(options.connections, console),
        seconds=options.seconds,
        think_s=options.think_ms / 1000,
    )
    try:
        with ServerProcess() as server:
            console.print(f"Site on http://{_HOST}:{server.port}, {_describe(plan)}")
            outcome, costs = _visit(server, plan, console)
            status = server.stop()
            complaints = server.complaints()
    except ServerFailed as error:
        console.print(f"error: {error}", markup=False)
        return 1
    console.print(_table(outcome))
    _print_costs(console, outcome, costs)
    is_well = _verdict(console, outcome, status, complaints)
    if options.storm_requests:
        is_well &= _storm(options.storm_clients, options.storm_requests, console)
    return 0 if is_well else 1


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of the load")
    parser.add_argument("--connections", type=int, default=2000, help="kept open throughout")
    parser.add_argument("--think-ms", type=float, default=1000.0, help="mean between two requests")
    parser.add_argument("--storm-clients", type=int, default=8000, help="at a time, in the storm")
    parser.add_argument("--storm-requests", type=int, default=80_000, help="0: no storm")
    options = parser.parse_args()
    if options.storm_clients < 1 or options.storm_requests < 0:
        parser.error("--storm-clients must be at least 1, --storm-requests at least 0")
    if options.seconds <= 0 or options.connections < 3 or options.think_ms < 0:
        parser.error("--seconds must be positive, --connections at least 3, --think-ms at least 0")
    return options


def _affordable(n_connections: int, console: Console) -> int:
    """Raise the descriptor limit, which the server inherits, or return fewer connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n_connections + _N_DESCRIPTORS_SPARE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return n_connections
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    affordable = limit - _N_DESCRIPTORS_SPARE
    if affordable < n_connections:
        console.print(f"{affordable} connections: the descriptor limit of {hard} allows no more")
    return max(1, affordable)


def _visit(server: ServerProcess, plan: Plan, console: Console) -> tuple[Outcome, Costs]:
    outcome = new_outcome(_module_names(server.port))
    before, load_cpu_s = server.cost(), time.process_time()
    with _Display(console, plan, outcome) as show:
        threadlets.run(put_load(_HOST, server.port, plan, outcome, show))
    return outcome, Costs(before, server.cost(), time.process_time() - load_cpu_s)


def _module_names(port: int) -> list[str]:
    url = f"http://{_HOST}:{port}/api/modules?limit=100"
    with urllib.request.urlopen(url, timeout=10) as response:
        return [module["name"] for module in json.load(response)["page"]]


def _describe(plan: Plan) -> str:
    return (
        f"{plan.n_browsers:,} browsers, {plan.n_listeners} event listeners and "
        f"{plan.n_speakers} websockets for {plan.seconds:g} s"
    )


class _Display:
    """One line that changes on a terminal, else a plain line now and then."""

    def __init__(self, console: Console, plan: Plan, outcome: Outcome) -> None:
        self._console = console
        self._plan = plan
        self._outcome = outcome
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._shown_s = float("-inf")
        self._counted = (time.monotonic(), 0)

    def __enter__(self) -> Callable[[str, float], None]:
        if self._console.is_terminal:
            self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def _show(self, phase: str, elapsed_s: float) -> None:
        now_s = time.monotonic()
        is_due = now_s - self._shown_s >= _PLAIN_INTERVAL_S
        if self._console.is_terminal:
            self._live.update(Text(self._line(phase, elapsed_s, now_s)), refresh=True)
        elif is_due:
            self._console.print(self._line(phase, elapsed_s, now_s), highlight=False)
        if is_due:
            self._shown_s = now_s
            self._counted = (now_s, self._outcome.n_answers)

    def _line(self, phase: str, elapsed_s: float, now_s: float) -> str:
        outcome = self._outcome
        since_s, n_before = self._counted
        rate = (outcome.n_answers - n_before) / max(now_s - since_s, 0.001)
        total = f"/{self._plan.seconds:g}" if phase == "visiting" else ""
        return (
            f"{phase:>12} {elapsed_s:5.1f}{total} s   {outcome.n_connected:,} connections   "
            f"{outcome.n_answers:,} answers   {rate:,.0f}/s   {outcome.n_errors} errors"
        )


def _table(outcome: Outcome) -> Table:
    table = Table(title="Latencies in ms, as a visitor sees them")
    table.add_column("endpoint", no_wrap=True)
    for heading in ("answers", "per s", "p50", "p90", "p99", "max", "errors"):
        table.add_column(heading, justify="right")
    for row in outcome.rows:
        table.add_row(*_cells(row, outcome.elapsed_s))
    return table


def _cells(row: Endpoint, elapsed_s: float) -> list[str]:
    ordered = sorted(row.latencies_s)
    n_answers = len(ordered)
    if not ordered:
        return [row.name, "0", "0", "-", "-", "-", "-", str(row.n_errors)]
    ranks = [ordered[min(n_answers - 1, int(n_answers * share))] for share in (0.5, 0.9, 0.99)]
    latencies = [f"{value * 1000:.1f}" for value in (*ranks, ordered[-1])]
    rate = f"{n_answers / elapsed_s:,.0f}"
    return [row.name, f"{n_answers:,}", rate, *latencies, str(row.n_errors)]


def _print_costs(console: Console, outcome: Outcome, costs: Costs) -> None:
    after = costs.after
    cpu_s = after.cpu_s - costs.before.cpu_s
    per_request_us = cpu_s / max(outcome.n_answers, 1) * 1e6
    console.print(
        f"Server: memory {after.rss_mb:.0f} MB (peak {after.rss_peak_mb:.0f} MB), "
        f"CPU {cpu_s:.1f} s ({per_request_us:.0f} us per answer), {after.n_threads} threads\n"
        f"Load:   CPU {costs.load_cpu_s:.1f} s, {outcome.n_connected:,} connections, "
        f"{outcome.n_answers / outcome.elapsed_s:,.0f} answers/s in {outcome.elapsed_s:.1f} s",
        highlight=False,
    )


def _verdict(console: Console, outcome: Outcome, status: int, complaints: list[str]) -> bool:
    problems = [f"{count} x {kind}" for kind, count in sorted(outcome.problems.counts.items())]
    if status != 0:
        problems.append(f"the server ended with status {status}")
    problems += [f"in the server's log: {line}" for line in complaints[:5]]
    if not outcome.n_answers:
        problems.append("no request was answered")
    for problem in problems:
        console.print(f"error: {problem}", markup=False, highlight=False)
    if not problems:
        console.print(
            "All requests were answered; the server stopped on SIGTERM, status 0.", highlight=False
        )
    return not problems


def _storm(n_clients: int, n_requests: int, console: Console) -> bool:
    """Load each server that is here, ours first; return whether ours answered every request."""
    n_clients = min(_affordable(n_clients, console), n_requests)
    storm = Storm(n_clients, n_requests)
    console.print(
        f"A storm: {n_requests:,} requests of {n_clients:,} clients at a time, each on a connection "
        f"of its own, by {load_name()}",
        highlight=False,
    )
    if n_clients > n_waiting_max():
        console.print(
            f"The kernel lets {n_waiting_max():,} connections wait to be accepted "
            "(net.core.somaxconn); more than these try again a second later",
            highlight=False,
        )
    results: list[Result] = []
    is_well = True
    for server in contenders():
        if server.missing is not None:
            console.print(f"{server.name} is not installed: {server.missing}", highlight=False)
            continue
        try:
            with console.status(f"{server.name} …"):
                results.append(blow(server, storm))
        except StormFailed as error:
            kind = "error" if server.is_ours else "left out"
            console.print(f"{kind}: {error}", markup=False, highlight=False)
            is_well &= not server.is_ours
        else:
            is_well &= not (server.is_ours and results[-1].n_failed)
    if results:
        console.print(chart(results, f"{n_clients:,} clients at a time", console))
    return is_well


if __name__ == "__main__":
    sys.exit(main())
