"""What a page may be made of: complete runs, with what they lack."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from benches import cli, environment, figures, page, results
from benches.results import Result, Unfit
from benches.scenario import Case, MeasurementFailed, Metric, NotApplicable, Scenario
from benches.scenarios import ALL

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

METRIC = Metric("wait_us", "us", "lower")
CASES = (Case("one", (METRIC,)), Case("two", (METRIC,)))
PEERS = ("threadlets", "asyncio", "gevent")
#: Three rounds of two cases of two peers; the third is not installed.
N_PLANNED = 12
Measure = dict[str, float]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that runs one scenario, with a page and results of its own."""
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(results, "DIRECTORY", tmp_path / "results")
    monkeypatch.setattr(figures, "texts", list)
    monkeypatch.setattr(page, "PATH", tmp_path / "docs" / "benchmarks.md")
    missing = {"gevent": "No module named 'gevent'; pip install gevent, or leave it out."}

    def available(peers: list[str]) -> tuple[list[str], dict[str, str]]:
        return [it for it in peers if it not in missing], missing

    monkeypatch.setattr(environment, "available", available)

    def run(measure: Callable[[Case, str], Measure], *argv: str) -> int:
        scenario = Scenario(
            "fake", "Doc.", CASES, lambda case, peer, _: measure(case, peer), peers=PEERS
        )
        monkeypatch.setattr(cli, "ALL", (scenario,))
        monkeypatch.setattr(page, "ALL", (scenario,))
        return cli.main(["--json-dir", str(tmp_path / "local"), "--seconds", "0.01", *argv])

    return run


def local(tmp_path: Path) -> list[Path]:
    """Return the paths of results that were not published."""
    return sorted((tmp_path / "local").glob("*.json"))


def constant(_case: Case, peer: str) -> Measure:
    """Return the same figure for every measurement of a peer."""
    return {"wait_us": 10.0 if peer == "threadlets" else 20.0}


def counting(then: Callable[[int, Case, str], None]) -> Callable[[Case, str], Measure]:
    """Measure constants, after a call of `then` with the number of measurements so far."""
    n_taken = 0

    def measure(case: Case, peer: str) -> Measure:
        nonlocal n_taken
        n_taken += 1
        then(n_taken, case, peer)
        return constant(case, peer)

    return measure


def test_complete_run_is_published(run: Any, tmp_path: Path) -> None:
    """One command measures, stores and writes the page, which names the peer that is missing."""
    assert 0 == run(constant, "--publish")
    [stored] = (tmp_path / "results").glob("*.json")
    assert [] == local(tmp_path)
    raw = json.loads(stored.read_text())
    assert raw["is_complete"]
    assert (3, ["threadlets", "asyncio"]) == (raw["settings"]["n_rounds"], raw["settings"]["peers"])
    assert {"gevent"} == raw["settings"]["peers_missing"].keys()
    text = page.PATH.read_text()
    assert "| one | wait_us | 10 us | 20 us (0.50) |  |" in text
    assert "3 rounds of 0.01 s" in text
    assert "*missing: gevent: No module named 'gevent'; pip install gevent" in text
    assert re.search(r"^Measured on \d{4}-\d\d-\d\d at commit .* CPUs, kernel ", text, re.MULTILINE)


def test_published_run_replaces_the_one_before(run: Any, tmp_path: Path) -> None:
    """The page never has to choose between two results of a scenario."""
    for _ in range(2):
        assert 0 == run(constant, "--publish")
    assert 1 == len(list((tmp_path / "results").glob("*.json")))


@pytest.mark.parametrize("n_until", [1, 2, N_PLANNED])
def test_interrupted_run_is_kept_and_not_shown(run: Any, tmp_path: Path, n_until: int) -> None:
    """Its measurements are kept and called incomplete, and it replaces nothing."""
    assert 0 == run(constant, "--publish")
    before = page.PATH.read_text()

    def interrupt(n_taken: int, _case: Case, _peer: str) -> None:
        if n_taken == n_until:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(counting(interrupt), "--publish")
    assert before == page.PATH.read_text()
    assert 1 == len(list((tmp_path / "results").glob("*.json")))
    if n_until == 1:
        assert [] == local(tmp_path)
        return
    [kept] = local(tmp_path)
    assert kept.name.endswith("-fake.incomplete.json")
    assert n_until - 1 == len(json.loads(kept.read_text())["measurements"])
    with pytest.raises(Unfit, match=f"interrupted after {n_until - 1} of {N_PLANNED} measurements"):
        Result.load(kept)
    assert 1 == page.main([str(kept)])


def test_interrupted_run_is_refused_among_stored_ones(
    run: Any, tmp_path: Path, capsys: Any
) -> None:
    """The page says that the scenario has not been measured."""

    def interrupt(n_taken: int, _case: Case, _peer: str) -> None:
        if n_taken == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(counting(interrupt))
    [kept] = local(tmp_path)
    kept.rename(tmp_path / "results" / kept.name)
    page.write()
    assert "interrupted after 4 of 12" in capsys.readouterr().err
    text = page.PATH.read_text()
    assert "Not measured yet, or not completely: fake." in text
    assert "## fake" not in text


def test_old_file_that_lacks_rounds_is_refused(run: Any, tmp_path: Path) -> None:
    """Old files do not say whether they are complete; the number of their measurements does."""
    run(constant)
    [path] = local(tmp_path)
    raw = json.loads(path.read_text())
    del raw["is_complete"]
    path.write_text(json.dumps(raw))
    assert N_PLANNED == len(Result.load(path).measurements)
    del raw["measurements"][-1]
    path.write_text(json.dumps(raw))
    with pytest.raises(Unfit, match="interrupted after 11 of 12"):
        Result.load(path)


def test_quick_run_is_refused(run: Any, tmp_path: Path) -> None:
    """A quick run is too short to be quoted."""
    run(constant, "--quick")
    [path] = local(tmp_path)
    with pytest.raises(Unfit, match="quick run"):
        Result.load(path)


@pytest.mark.parametrize("argv", [["--quick"], ["--peers", "threadlets"], ["fake/one"]])
def test_only_whole_scenarios_are_published(run: Any, argv: list[str], tmp_path: Path) -> None:
    """A run that would replace a full table by a smaller one is refused before it measures."""
    assert 2 == run(counting(lambda *_: pytest.fail("nothing is measured")), "--publish", *argv)
    assert [] == list((tmp_path / "results").iterdir())


def test_failures_and_rounds_are_told(run: Any) -> None:
    """A figure of fewer rounds says so; a peer that always failed is named with its last message."""

    def fail(_n_taken: int, case: Case, peer: str) -> None:
        if (case.name, peer) == ("one", "asyncio"):
            raise MeasurementFailed("Traceback:\n  File …\nMemoryError: too much")
        if (case.name, peer) == ("two", "asyncio") and _n_taken > 9:
            raise MeasurementFailed("it died")

    assert 1 == run(counting(fail), "--publish")
    text = page.PATH.read_text()
    assert "*failed: one, asyncio: 3 of 3 rounds: MemoryError: too much*" in text
    assert re.search(r"\*failed: two, asyncio: [12] of 3 rounds: it died\*", text)
    assert re.search(r"\| two \| wait_us \| 10 us \| 20 us \[[12] of 3 rounds\] \(0.50\)", text)
    assert "| case | metric | threadlets | goal |" in text


def test_case_that_failed_throughout_has_no_row(run: Any) -> None:
    """The case is named as failed."""

    def fail(_n_taken: int, case: Case, _peer: str) -> None:
        if case.name == "one":
            raise MeasurementFailed("it died")

    assert 1 == run(counting(fail), "--publish")
    text = page.PATH.read_text()
    assert "| one |" not in text
    assert "failed: one, threadlets: 3 of 3 rounds" in text


def test_peers_that_are_left_out_are_named(run: Any) -> None:
    """They are named with the reason; the run is complete without them."""

    def leave_out(_n_taken: int, case: Case, peer: str) -> None:
        if (case.name, peer) == ("two", "asyncio"):
            raise NotApplicable("not run: too little memory")

    assert 0 == run(counting(leave_out), "--publish")
    assert "*left out: two (asyncio): not run: too little memory*" in page.PATH.read_text()


def test_cases_and_peers_that_were_not_asked_for_are_named(run: Any, tmp_path: Path) -> None:
    """A table of some cases or peers does not pass for a table of all."""
    run(constant, "fake/two", "--peers", "threadlets")
    [path] = local(tmp_path)
    raw = json.loads(path.read_text())
    raw["settings"]["peers_missing"] = {}
    path.write_text(json.dumps(raw))
    text = page.render([Result.load(path)])
    assert "*not measured: 1 of 2 cases: one*" in text
    assert "*not measured: the peers asyncio, gevent*" in text


# -- what is in the repository ---------------------------------------------------------------------


def test_page_is_that_of_the_stored_results() -> None:
    """`python -m benches.page` writes the page; it is not edited by hand."""
    newest, unfit = results.stored(results.DIRECTORY)
    assert [] == unfit
    rendered = page.render(results.in_order(newest, ALL))
    assert rendered == page.PATH.read_text(), "python -m benches.page writes it"


@pytest.mark.parametrize("path", figures.texts(), ids=lambda path: path.name)
def test_figures_in_the_docs_are_the_stored_ones(path: Path) -> None:
    """`python -m benches.page` writes the figures in front of the marks that name them."""
    newest, _ = results.stored(results.DIRECTORY)
    assert figures.update(path.read_text(), newest) == path.read_text()


@pytest.mark.parametrize(
    ("text", "updated"),
    [
        ("It takes 99 us <!-- bench: fake/one/threadlets/wait_us -->.", "It takes 10 us"),
        ("| 0.12 <!-- bench: fake/one/asyncio/wait_us --> |", "| 20.00 <"),
        ("no mark, 5 us", "no mark, 5 us"),
    ],
)
def test_marked_figures_are_put_in(run: Any, tmp_path: Path, text: str, updated: str) -> None:
    """A figure keeps its number of digits, and nothing else changes."""
    run(constant)
    [path] = local(tmp_path)
    put_in = figures.update(text, {"fake": Result.load(path)})
    assert put_in.startswith(updated)
    assert text.partition("<!--")[2] == put_in.partition("<!--")[2]


@pytest.mark.parametrize(
    "text",
    [
        "some us <!-- bench: fake/one/threadlets/wait_us -->",
        "1 us <!-- bench: fake/one/nginx/wait_us -->",
        "1 us <!-- bench: fake/three/threadlets/wait_us -->",
        "1 us <!-- bench: other/one/threadlets/wait_us -->",
    ],
)
def test_marks_of_nothing_are_refused(run: Any, tmp_path: Path, text: str) -> None:
    """A mark that names no figure would check nothing."""
    run(constant)
    [path] = local(tmp_path)
    with pytest.raises(figures.MarkWrong):
        figures.update(text, {"fake": Result.load(path)})
