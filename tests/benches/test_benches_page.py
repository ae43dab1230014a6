"""Histograms, the page and its plots."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from benches import page, plots, report
from benches.histogram import BINS_PER_DECADE, histogram, quantile, slower_than
from benches.runner import Kept, save, summarize_all
from benches.scenario import Case, Metric, Scenario
from benches.summary import LeftOut, Measurement

if TYPE_CHECKING:
    from pathlib import Path

WAIT = Metric("wait_us", "us", "lower", "<=0.5x pool-64")
CASES = (
    Case("sleep-1ms", (WAIT,), peers=("threadlets", "pool-64")),
    Case("alone", (WAIT,), peers=("threadlets",)),
)
MEASUREMENTS = [
    measurement
    for idx in range(3)
    for measurement in (
        Measurement("sleep-1ms", "threadlets", idx, {"wait_us": 20}, None, {"added": {"26": 9}}),
        Measurement("sleep-1ms", "pool-64", idx, {"wait_us": 80}, None, {"added": {"38": 9}}),
        Measurement("alone", "threadlets", idx, {"wait_us": 20}),
    )
]
KEPT = Kept(MEASUREMENTS, [LeftOut("alone", "nginx", "a program is missing")], is_complete=True)


def saved(tmp_path: Path, kept: Kept = KEPT, **changed: Any) -> Path:
    """Save a result of two cases that compare different peers."""
    scenario = Scenario("calls", "Doc.", CASES, lambda *_: {}, legend=("added: what came on top.",))
    settings = {"peers": ["threadlets", "pool-64"], "n_rounds": 3, "seconds": 1} | changed
    environment = {
        "date": "2026-01-02T03:04:05",
        "commit": "0123456789abcdef-dirty",
        "cpu_model": "a CPU",
        "n_cpus": 2,
        "kernel": "6",
        "versions": {"threadlets": "1"},
    }
    return save(tmp_path, scenario, CASES, environment, settings, kept)


def test_histogram_keeps_values_within_a_bin() -> None:
    """Values return as the upper edge of a bin that is 12 % wide."""
    [(edge_us, share)] = slower_than([histogram([250.0, 250.0])])
    assert 250 <= edge_us <= 250 * 10 ** (1 / BINS_PER_DECADE)
    assert 0 == share


def test_rounds_add_up_in_one_curve() -> None:
    """The share is that of all values of all rounds, and falls to zero."""
    points = slower_than([histogram([1.0]), histogram([100.0, 100.0, 1000.0])])
    assert [0.75, 0.25, 0] == [share for _, share in points]


def test_no_time_at_all_has_a_bin() -> None:
    """A clock that did not advance, or a difference below zero, is counted as very short."""
    assert histogram([0.0]) == histogram([-5.0]) != {}


def test_quantile_of_nothing_is_an_error() -> None:
    """No figure is made up where there are no values."""
    with pytest.raises(ValueError, match="nothing was timed"):
        quantile([], 0.5)


def test_result_survives_the_file(tmp_path: Path) -> None:
    """The file is JSON, with a line for each measurement."""
    text = saved(tmp_path).read_text()
    stored = json.loads(text)["measurements"]
    expected = [{"added": {"26": 9}}, {"added": {"38": 9}}, {}] * 3
    assert expected == [it["histograms"] for it in stored]
    assert 9 == sum('"round_idx"' in line for line in text.splitlines())


def test_page_tells_ratios_goals_and_changes(tmp_path: Path, capsys: Any) -> None:
    """Cases with different peers have tables of their own; uncommitted changes are mentioned."""
    page.main([str(saved(tmp_path))])
    written = capsys.readouterr().out
    assert "| sleep-1ms | wait_us | 20 us | 80 us (0.25) | <=0.5x pool-64 met |" in written
    assert "| case | metric | threadlets | goal |" in written
    assert "commit `0123456789` with changes" in written
    assert "- added: what came on top." in written
    assert "](figures/calls-sleep-1ms-added.svg)" in written


def test_table_is_split_where_peers_differ() -> None:
    """No table has a column without figures."""
    rows = summarize_all(CASES, MEASUREMENTS)
    parts = report.groups(rows, ["threadlets", "pool-64", "nginx"])
    assert [["threadlets", "pool-64"], ["threadlets"]] == [peers for _, peers in parts]


def test_reasons_to_leave_peers_out_are_reported_together() -> None:
    """Each reason takes one line."""
    [line] = report.left_out([LeftOut("a", "nginx", "missing"), LeftOut("b", "nginx", "missing")])
    assert "left out: a (nginx), b (nginx): missing" == line


def test_plots_are_drawn_and_the_same_each_time(tmp_path: Path) -> None:
    """The picture depends on the result alone."""
    pytest.importorskip("matplotlib")
    result = saved(tmp_path)
    drawn = []
    for name in ("first", "second"):
        plots.main([str(result), "--directory", str(tmp_path / name)])
        drawn.append((tmp_path / name / "calls-sleep-1ms-added.svg").read_text())
    assert "<svg" in drawn[0]
    assert drawn[0] == drawn[1]
