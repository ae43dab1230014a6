"""The table at the end of a run: medians with spreads, ratios, goals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benches.peers import SUBJECT
from benches.quiet import OTHERS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benches.summary import LeftOut, Measurement, Row, Spread

#: The share of a CPU above which a side counts as saturated.
_SATURATED = 0.93


def show(title: str, rows: Sequence[Row], peers: Sequence[str]) -> None:
    """Print a table for each group of cases that compare the same peers, by rich if it is there."""
    for part, present in groups(rows, peers):
        _show_table(title, *table(part, present))
        title = ""


def groups(rows: Sequence[Row], peers: Sequence[str]) -> list[tuple[list[Row], list[str]]]:
    """Split rows into groups of adjacent cases with the same peers; return each with its peers."""
    present: dict[str, set[str]] = {}
    for row in rows:
        present.setdefault(row.case, set()).update(row.spreads)
    parts: list[tuple[list[Row], list[str]]] = []
    for row in rows:
        measured = [peer for peer in peers if peer in present[row.case]]
        if not parts or parts[-1][1] != measured:
            parts.append(([], measured))
        parts[-1][0].append(row)
    return parts


def _show_table(title: str, header: list[str], lines: list[list[str]]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(f"\n{title}\n{plain(header, lines)}")
        return
    console = Console()
    if not console.is_terminal:
        # A pipe has no width to fit a table into.
        print(f"\n{title}\n{plain(header, lines)}")
        return
    drawn = Table(*header, title=title)
    for line in lines:
        drawn.add_row(*line)
    console.print(drawn)


def table(rows: Sequence[Row], peers: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells; a peer that was not measured shows a dash."""
    others = [peer for peer in peers if peer != SUBJECT] if SUBJECT in peers else []
    header = ["case", "metric", *peers, *(f"vs {peer}" for peer in others), "goal"]
    lines = []
    for row in rows:
        lines.append(
            [
                row.case,
                row.metric.name,
                *(_spread(row.spreads.get(peer), row.metric.unit) for peer in peers),
                *(_ratio(row, peer) for peer in others),
                _goal(row),
            ]
        )
    return header, lines


def plain(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lay the cells out in columns."""
    widths = [max(len(line[idx]) for line in [header, *lines]) for idx in range(len(header))]
    ruled = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in ruled
    )


def failures(measurements: Sequence[Measurement]) -> list[str]:
    """Return a line per measurement that has no figures or whose load saw errors."""
    lines = []
    for measurement in measurements:
        where = f"{measurement.case}, round {measurement.round_idx + 1}, {measurement.peer}"
        if measurement.error is not None:
            lines.append(f"failed: {where}: {measurement.error}")
        elif n_errors := measurement.figures.get("n_errors"):
            lines.append(f"errors: {where}: {n_errors:.0f} connections failed")
    return lines


def failed_cases(measurements: Sequence[Measurement]) -> list[str]:
    """Return a line per case and peer with failures or errors, with the last line of the last one."""
    taken: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        taken.setdefault((measurement.case, measurement.peer), []).append(measurement)
    lines = []
    for (case, peer), rounds in taken.items():
        if errors := [it.error for it in rounds if it.error is not None]:
            words = errors[-1].strip().splitlines() or [""]
            lines.append(
                f"failed: {case}, {peer}: {len(errors)} of {len(rounds)} rounds: {words[-1][:200]}"
            )
        if n_errors := sum(it.figures.get("n_errors", 0) for it in rounds):
            lines.append(f"errors: {case}, {peer}: {n_errors:.0f} connections failed")
    return lines


def left_out(entries: Sequence[LeftOut]) -> list[str]:
    """Return a line per reason to leave peers out, with the cases and peers that it concerns."""
    concerned: dict[str, list[str]] = {}
    for entry in entries:
        concerned.setdefault(entry.reason, []).append(f"{entry.case} ({entry.peer})")
    return [f"left out: {', '.join(where)}: {reason}" for reason, where in concerned.items()]


def disturbed(measurements: Sequence[Measurement]) -> list[str]:
    """Return a line with the number of measurements that other processes disturbed, if any."""
    busy = [it.figures["others_busy"] for it in measurements if "others_busy" in it.figures]
    n_disturbed = sum(others > OTHERS_MAX for others in busy)
    if not n_disturbed:
        return []
    return [f"disturbed by others: {n_disturbed} of {len(busy)} measurements"]


def limited_by_load(measurements: Sequence[Measurement]) -> list[str]:
    """Return a line per case and peer whose rate the load bounded: only its CPU time compares."""
    busy: dict[tuple[str, str], list[bool]] = {}
    for measurement in measurements:
        if "load_busy" in measurement.figures:
            bounded = (
                measurement.figures["load_busy"] > _SATURATED
                and measurement.figures["server_busy"] < _SATURATED
            )
            busy.setdefault((measurement.case, measurement.peer), []).append(bounded)
    return [
        f"limited by the load: {case}, {peer}: compare CPU time, not the rate"
        for (case, peer), bounded in busy.items()
        if 2 * sum(bounded) > len(bounded)
    ]


def number(value: float) -> str:
    """Write a figure with four significant digits, thousands separated."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _spread(spread: Spread | None, unit: str) -> str:
    if spread is None:
        return "-"
    extremes = f"{number(spread.smallest)}..{number(spread.largest)}"
    return f"{number(spread.median)} {unit} [{extremes}]"


def _ratio(row: Row, peer: str) -> str:
    if peer not in row.ratios:
        return "-"
    ratio = row.ratios[peer]
    verdict = "even" if round(ratio, 2) == 1 else "better" if row.is_win(peer) else "worse"
    return f"{ratio:.2f}x {verdict}"


def _goal(row: Row) -> str:
    if row.metric.goal is None:
        return ""
    verdict = {True: "met", False: "missed", None: "not measured"}[row.goal_met]
    return f"{row.metric.goal} {verdict}"
