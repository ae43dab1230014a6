"""Say what came out, for people and as JSON.  Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from harness.outcomes import Outcome
from harness.verdict import Failure, ModuleVerdict, Verdict


@dataclass(frozen=True)
class Rerun:
    """A test that failed in company; what its runs alone said."""

    test: str
    first: Outcome
    n_runs: int
    last: Outcome
    loop: str


@dataclass
class InterpreterReport:
    path: str
    release: str
    loop: str
    verdict: Verdict
    reruns: list[Rerun]
    troubles: list[str]
    stock_s: float
    ours_s: float

    @property
    def is_good(self) -> bool:
        return self.verdict.is_good and not self.troubles


def table(report: InterpreterReport) -> str:
    """Return the table of modules, and below it every name that matters."""
    verdict = report.verdict
    head = ("module", "stock passed", "ours passed", "explained", "unexplained", "loops", "stray")
    rows = [_row(module) for module in verdict.modules]
    total = tuple(str(sum(int(row[column]) for row in rows)) for column in range(1, len(head)))
    lines = [
        f"Python {report.release} ({report.path}), loop {report.loop}: "
        f"stock {report.stock_s:.0f} s, ours {report.ours_s:.0f} s",
        *_aligned([head, *rows, ("total", *total)]),
    ]
    lines += _section("unexplained", (_failure_line(f) for f in verdict.unexplained))
    lines += _section("stale exceptions", verdict.stale)
    lines += _section(
        "modules that judged nothing (no test passed on stock, or no loop of ours made)",
        verdict.unproven,
    )
    lines += _section("trouble", report.troubles)
    lines += _section("re-run alone", (_rerun_line(rerun) for rerun in report.reruns))
    on_both = [failure for module in verdict.modules for failure in module.failed_on_both]
    lines += _section("fails on the stock loop too", (_failure_line(f) for f in on_both))
    return "\n".join(lines)


def final_line(report: InterpreterReport) -> str:
    """Return what one interpreter's tests came to; `.ci/compat` repeats it."""
    verdict = report.verdict
    n_explained = sum(len(module.explained) for module in verdict.modules)
    counts = (
        f"{verdict.n_passed} passed, {len(verdict.unexplained)} failed, {n_explained} explained"
    )
    flaws = {
        "stale exceptions": verdict.stale,
        "modules that judged nothing": verdict.unproven,
        "troubles": report.troubles,
    }
    counts += "".join(f", {len(found)} {flaw}" for flaw, found in flaws.items() if found)
    return f"CPython {report.release}: {counts}"


def as_json(reports: Iterable[InterpreterReport]) -> list[dict[str, Any]]:
    """Return everything that was judged, each failure with its whole text."""
    return [asdict(report) | {"is_good": report.is_good} for report in reports]


def _row(module: ModuleVerdict) -> tuple[str, ...]:
    counts = (
        module.n_stock_passed,
        module.n_passed,
        len(module.explained),
        len(module.unexplained),
        module.n_loops_judged,
        module.n_loops_stray,
    )
    return (module.module, *map(str, counts))


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _section(title: str, items: Iterable[str]) -> list[str]:
    lines = [f"  {item}" for item in items]
    return [f"{title}: {len(lines)}", *lines] if lines else []


def _failure_line(failure: Failure) -> str:
    outcome = failure.outcome
    return f"{failure.test}: {outcome.kind.value}: {_short(outcome.headline)}"


def _rerun_line(rerun: Rerun) -> str:
    times = "once" if rerun.n_runs == 1 else f"{rerun.n_runs} times"
    return (
        f"{rerun.test} on {rerun.loop}: ran {times}, {rerun.last.kind.value}; "
        f"at first: {_short(rerun.first.headline)}"
    )


def _short(text: str, n_chars_max: int = 160) -> str:
    return text if len(text) <= n_chars_max else text[: n_chars_max - 3] + "..."
