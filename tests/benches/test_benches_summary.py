"""The arithmetic and the tables of the benchmarks."""

from __future__ import annotations

import pytest

from benches.goals import Goal, GoalMalformed
from benches.load import listen_overflows
from benches.report import failures, limited_by_load, plain, table
from benches.runner import order_of
from benches.scenario import Case, Metric, ScenarioUnknown, select
from benches.scenarios import ALL
from benches.summary import Measurement, Spread, summarize

RATE = Metric("rate", "msg/s", "higher", ">=1.1x uvloop")
CASE = Case("case", (RATE,))


def measured(peer: str, *rates: float) -> list[Measurement]:
    return [Measurement("case", peer, idx, {"rate": rate}) for idx, rate in enumerate(rates)]


def test_median_ignores_one_disturbed_round() -> None:
    """A single slow round moves the spread and not the median."""
    assert Spread(median=10, smallest=1, largest=11, n_rounds=3) == Spread.of([10, 1, 11])


def test_ratio_is_subject_over_peer() -> None:
    """A peer that wins shows a ratio below one, and the goal is missed."""
    [row] = summarize(CASE, [*measured("threadlets", 50, 60, 70), *measured("uvloop", 120)])
    assert 0.5 == row.ratios["uvloop"]
    assert not row.is_win("uvloop")
    assert row.goal_met is False


def test_lower_is_better_reverses_the_winner() -> None:
    """Half the latency is a win."""
    case = Case("case", (Metric("rate", "us", "lower"),))
    [row] = summarize(case, [*measured("threadlets", 5), *measured("uvloop", 10)])
    assert row.is_win("uvloop")


def test_paired_ratios_compare_the_same_round() -> None:
    """Drift that hits both peers of a round leaves the paired ratio alone."""
    [row] = summarize(CASE, [*measured("threadlets", 20, 200), *measured("uvloop", 10, 100)])
    assert Spread(2, 2, 2, 2) == row.ratio_spreads["uvloop"]


def test_missing_peer_leaves_the_goal_open() -> None:
    """Without the peer there is no verdict, neither met nor missed."""
    [row] = summarize(CASE, measured("threadlets", 1, 2, 3))
    assert row.goal_met is None
    assert {} == row.ratios


def test_peers_of_zero_have_no_ratio() -> None:
    """A peer's median of zero, or of a difference below it, is not divided by."""
    for median in (0, -1):
        [row] = summarize(CASE, [*measured("threadlets", 1), *measured("uvloop", median)])
        assert {} == row.ratios


@pytest.mark.parametrize("text", [">=1.1x uvloop", "<=250", "<=1x asyncio", "<=0.12x pool-64"])
def test_goal_prints_as_it_was_written(text: str) -> None:
    """Parsing and printing are inverse."""
    assert text == str(Goal.parse(text))


@pytest.mark.parametrize("text", ["1.1x uvloop", "> 2", "<=fast", ""])
def test_malformed_goal_is_refused(text: str) -> None:
    """A goal that does not parse is an error and not an absent goal."""
    with pytest.raises(GoalMalformed):
        Goal.parse(text)


def test_every_scenario_states_valid_goals() -> None:
    """Only reports parse goals; this finds a bad goal earlier."""
    for scenario in ALL:
        for case in scenario.cases:
            for metric in case.metrics:
                assert (metric.goal is None) == (metric.parsed_goal is None)


def test_order_rotates_and_keeps_every_peer() -> None:
    """Each peer comes first once in as many rounds as there are peers."""
    assert [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]] == [
        order_of("abc", idx) for idx in range(4)
    ]


def test_pattern_selects_cases() -> None:
    """``scenario/case`` takes wildcards on both sides; nothing matching is an error."""
    [(scenario, cases)] = select(ALL, ["echo/streams-1-*"])
    assert "echo" == scenario.name
    assert ["streams-1-other-cpu", "streams-1-same-cpu"] == [case.name for case in cases]
    with pytest.raises(ScenarioUnknown):
        select(ALL, ["echo/no-such-case"])


def test_table_shows_losing_ratios_and_missed_goals() -> None:
    """A loss is printed as a win is."""
    rows = summarize(CASE, [*measured("threadlets", 50), *measured("uvloop", 100)])
    text = plain(*table(rows, ["threadlets", "asyncio", "uvloop"]))
    assert "0.50x worse" in text
    assert ">=1.1x uvloop missed" in text


def test_failed_and_erroneous_measurements_are_named() -> None:
    """An absent figure and a connection error are both reported."""
    lines = failures(
        [
            Measurement("case", "uvloop", 0, {}, "it died"),
            Measurement("case", "asyncio", 1, {"n_errors": 3.0}),
            Measurement("case", "asyncio", 2, {"n_errors": 0.0}),
        ]
    )
    assert ["failed: case, round 1, uvloop: it died"] == lines[:1]
    assert ["errors: case, round 2, asyncio: 3 connections failed"] == lines[1:]


def test_saturated_load_is_named() -> None:
    """A rate that measures the load is marked; a saturated server is not."""
    idle = {"load_busy": 0.98, "server_busy": 0.7}
    busy = {"load_busy": 0.98, "server_busy": 0.99}
    lines = limited_by_load(
        [Measurement("case", "uvloop", 0, idle), Measurement("case", "asyncio", 0, busy)]
    )
    assert 1 == len(lines)
    assert "uvloop" in lines[0]


def test_listen_overflows_are_found_by_name() -> None:
    """Columns of /proc/net/netstat differ between kernels."""
    text = "TcpExt: A ListenOverflows B\nTcpExt: 1 42 3\nIpExt: X\nIpExt: 9\n"
    assert 42 == listen_overflows(text)
    assert 0 == listen_overflows("")
