"""The script that runs other projects' suites: what it counts, excuses and stores. No suite is run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from harness.outcomes import Kind, Outcome
from harness.session import Limits
from suite_runs.catalogue import CatalogueError, Suite, matches, read_explained, read_suites
from suite_runs.environment import Environment
from suite_runs.page import BEGIN, END, render
from suite_runs.session import Session, recorded, run
from suite_runs.verdict import Verdict, compare

_HERE = Path(__file__).parent
_PAGE = _HERE.parent.parent / "docs" / "compatibility.md"
# Plugins of our environment are none of this suite's.
_ARGUMENTS = ("test_tiny.py", "-p", "no:looptime_plugin")
_SUITE = Suite("tiny", "1.0", files=("test_tiny.py",), arguments=_ARGUMENTS)

_TESTS = """
import asyncio, os, subprocess, sys, time

def loop_of_a_child():
    code = "import asyncio; print(type(asyncio.new_event_loop()).__module__)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

def test_that_passes():
    asyncio.run(asyncio.sleep(0))

def test_that_wants_the_stock_loop():
    with asyncio.Runner() as runner:
        assert not type(runner.get_loop()).__module__.startswith("threadlets")

def test_that_ends_the_process():
    if "threadlets" in loop_of_a_child():
        os._exit(7)

def test_of_debug_mode():
    with asyncio.Runner() as runner:
        assert not runner.get_loop().get_debug()

def test_that_hangs():
    with asyncio.Runner() as runner:
        is_ours = type(runner.get_loop()).__module__.startswith("threadlets")
    if is_ours:
        time.sleep(60)
"""


def _session(
    tmp_path: Path, loop: str, mode: str = "plain", only: list[str] | None = None
) -> Session:
    (tmp_path / "test_tiny.py").write_text(_TESTS)
    environment = Environment(Path(sys.executable), tmp_path)
    limits = Limits(n_workers=1, test_s=10, session_s=120)
    return run(_SUITE, environment, loop, mode, limits, tmp_path / "run" / loop, only)


def test_a_suite_is_run_on_both_loops_and_compared(tmp_path: Path) -> None:
    """A test that hangs or ends its process fails alone; loops of child processes are judged, too."""
    stock, ours = _session(tmp_path, "asyncio"), _session(tmp_path, "threadlets")
    assert {Kind.PASSED} == {outcome.kind for outcome in stock.outcomes.values()}
    verdict = compare("tiny", "plain", stock, ours, {}, [])
    assert (5, 2) == (verdict.n_stock_passed, verdict.n_passed)
    assert ["ends_the_process", "hangs", "wants_the_stock_loop"] == [
        it.test.partition("::test_that_")[2] for it in verdict.unexplained
    ]
    assert "ended with status 7" in verdict.unexplained[0].error
    assert ours.n_loops > 0
    assert not verdict.is_good
    again = recorded(tmp_path / "run" / "asyncio")
    assert again is not None
    assert stock.outcomes.keys() == again.outcomes.keys()


def test_one_test_can_be_run_in_debug_mode(tmp_path: Path) -> None:
    """PYTHONASYNCIODEBUG is set, and no other test is run."""
    session = _session(tmp_path, "threadlets", "debug", ["test_tiny.py::test_of_debug_mode"])
    assert {"test_tiny.py::test_of_debug_mode": Kind.FAILED} == {
        test: outcome.kind for test, outcome in session.outcomes.items()
    }


def _verdict(tmp_path: Path, explained: str, again: Kind = Kind.FAILED) -> Verdict:
    path = tmp_path / "explained.toml"
    path.write_text(explained)
    stock = Session({"t.py::a[1]": Outcome(Kind.PASSED), "t.py::b": Outcome(Kind.PASSED)}, 1)
    ours = Session(
        {"t.py::a[1]": Outcome(Kind.FAILED, "E  no"), "t.py::b": Outcome(Kind.PASSED)}, 1
    )
    rerun = {"t.py::a[1]": Outcome(again)}
    return compare("tiny", "plain", stock, ours, rerun, read_explained(path))


def _entry(test: str, more: str = "") -> str:
    return (
        f'[[explained]]\nsuite = "tiny"\ntest = "{test}"\nreason = "It is so on purpose."\n{more}\n'
    )


def test_a_difference_is_explained_or_counts(tmp_path: Path) -> None:
    """An explanation covers tests by a pattern, in the modes that it names."""
    assert not _verdict(tmp_path, "").is_good
    assert _verdict(tmp_path, _entry("t.py::a[[]1]".replace("[[]", "["))).is_good
    assert _verdict(tmp_path, _entry("t.py::a*")).is_good
    assert not _verdict(tmp_path, _entry("t.py::a*", 'modes = ["debug"]')).is_good


def test_an_explanation_of_what_does_not_differ_is_stale(tmp_path: Path) -> None:
    """An entry is not stale if a race decides (`intermittent`)."""
    entries = _entry("t.py::a*") + _entry("t.py::b")
    assert ["t.py::b: no test that it covers differs"] == _verdict(tmp_path, entries).stale
    entries = _entry("t.py::a*") + _entry("t.py::b", "intermittent = true")
    assert _verdict(tmp_path, entries).is_good


def test_a_test_that_passes_when_it_is_run_again_is_named(tmp_path: Path) -> None:
    """Such a test is no difference, but it is named."""
    verdict = _verdict(tmp_path, "", again=Kind.PASSED)
    assert (True, ["t.py::a[1]"], 2) == (verdict.is_good, verdict.unsteady, verdict.n_passed)


def test_patterns_know_the_star_only() -> None:
    """Brackets are literal, because names of tests have them."""
    assert matches("t.py::a[asyncio]", "t.py::a[asyncio]")
    assert matches("t.py::a[asyncio]", "*[asyncio]")
    assert not matches("t.py::aa", "t.py::a[asyncio]")


@pytest.mark.parametrize(
    "text", ['[[explained]]\nsuite = "x"\ntest = "y"\nreason = "so"', "[[explained]]\na = 1", "["]
)
def test_what_explains_nothing_is_refused(tmp_path: Path, text: str) -> None:
    """A reason is a sentence; an entry has a suite, a test and a reason."""
    path = tmp_path / "explained.toml"
    path.write_text(text)
    with pytest.raises(CatalogueError, match=r"explained\.toml"):
        read_explained(path)


def test_the_files_here_can_be_read() -> None:
    """The suite of each explanation exists."""
    suites = read_suites(_HERE / "suites.toml")
    assert {it.suite for it in read_explained(_HERE / "explained.toml")} <= suites.keys()


def test_the_page_has_the_stored_results() -> None:
    """`tests/suites/run.py --page` was run after the last results were stored."""
    results = json.loads((_HERE / "results.json").read_text(encoding="utf-8"))
    page = _PAGE.read_text(encoding="utf-8")
    stored = page.partition(BEGIN)[2].partition(END)[0].strip()
    assert render(read_suites(_HERE / "suites.toml"), results).strip() == stored
    unexplained = [
        (suite, mode, it.test)
        for suite, modes in results.items()
        for mode, facts in modes.items()
        for it in Verdict.from_json(_without_circumstances(facts)).unexplained
    ]
    assert [] == unexplained


def _without_circumstances(facts: dict[str, object]) -> dict[str, object]:
    return {
        key: it for key, it in facts.items() if key not in ("date", "part", "python", "version")
    }
