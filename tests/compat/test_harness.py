"""The judge itself: what it counts, what it excuses, and what it refuses to believe."""

from __future__ import annotations

import asyncio
import json
import selectors
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import threadlets
from harness import judge
from harness.exceptions import Exceptions, ExceptionsFileError, parse_exceptions, read_exceptions
from harness.loops import StandIn
from harness.natives import adapt_evil_loop
from harness.outcomes import PROCESS_ENDED, Kind, LoopCount, Outcome, fold
from harness.session import Interpreter, Limits, lend_tests, probe, run_alone, run_modules
from harness.verdict import Verdict, compare
from threadlets import _core

A, B = "test_events.Epoll.test_a", "test_events.Epoll.test_b"
MADE = {"test_events": LoopCount(n_judged=5)}
REASON = 'reason = "The stock loop promises more than asyncio documents."'


def verdict_of(
    stock: Mapping[str, Kind],
    ours: Mapping[str, Kind],
    exceptions: str = "",
    our_loops: Mapping[str, LoopCount] = MADE,
) -> Verdict:
    return compare(
        "3.12",
        ["test_events"],
        {test: Outcome(kind) for test, kind in stock.items()},
        {test: Outcome(kind) for test, kind in ours.items()},
        parse_exceptions(exceptions),
        MADE,
        our_loops,
    )


def explained(test: str, *, python: str = "3.12", extra: str = "") -> str:
    return f'[[explained]]\ntest = "{test}"\npython = ["{python}"]\n{REASON}\n{extra}\n'


def test_equal_sessions_are_good() -> None:
    """Both loops pass everything: nothing to say."""
    verdict = verdict_of({A: Kind.PASSED}, {A: Kind.PASSED})
    assert verdict.is_good
    assert 1 == verdict.n_passed


@pytest.mark.parametrize("kind", [Kind.FAILED, Kind.SKIPPED, Kind.XFAILED, Kind.ABSENT])
def test_whatever_stock_passes_is_owed(kind: Kind) -> None:
    """A skipped or lost test is as unexplained as a failed one."""
    verdict = verdict_of({A: Kind.PASSED, B: Kind.PASSED}, {A: kind, B: Kind.PASSED})
    assert [failure.test for failure in verdict.unexplained] == [A]
    assert not verdict.is_good


def test_a_test_that_never_reported_is_owed() -> None:
    """A test missing from our session altogether counts, too."""
    verdict = verdict_of({A: Kind.PASSED, B: Kind.PASSED}, {B: Kind.PASSED})
    assert [failure.test for failure in verdict.unexplained] == [A]


def test_what_stock_fails_is_not_owed() -> None:
    """A test that fails on both loops is named and costs nothing."""
    verdict = verdict_of({A: Kind.FAILED, B: Kind.PASSED}, {A: Kind.FAILED, B: Kind.PASSED})
    assert verdict.is_good
    assert [failure.test for failure in verdict.modules[0].failed_on_both] == [A]


@pytest.mark.parametrize(
    "last_line",
    ["worker 'gw0' crashed while running 'test_events.py::Epoll::test_a'", PROCESS_ENDED],
)
def test_a_crash_is_owed_even_if_stock_crashes(last_line: str) -> None:
    """A crash of native code counts, whatever the stock loop does."""
    crash = Outcome(Kind.FAILED, f"Fatal Python error: Segmentation fault\n{last_line}")
    passed = Outcome(Kind.PASSED)
    stock, ours = {A: crash, B: passed}, {A: crash, B: passed}
    verdict = compare("3.12", ["test_events"], stock, ours, Exceptions(), MADE, MADE)
    assert [failure.test for failure in verdict.unexplained] == [A]


def test_failing_what_stock_skips_counts() -> None:
    """A test that only our loop runs must not fail there."""
    verdict = verdict_of({A: Kind.SKIPPED, B: Kind.PASSED}, {A: Kind.FAILED, B: Kind.PASSED})
    assert [failure.test for failure in verdict.unexplained] == [A]


def test_an_exception_explains_its_failure() -> None:
    """A listed failure appears among the explained ones."""
    verdict = verdict_of(
        {A: Kind.PASSED, B: Kind.PASSED}, {A: Kind.FAILED, B: Kind.PASSED}, explained(A)
    )
    assert verdict.is_good
    assert [failure.test for failure in verdict.modules[0].explained] == [A]


def test_an_exception_holds_on_its_versions_only() -> None:
    """An entry for another version explains nothing here, and is not stale here."""
    verdict = verdict_of({A: Kind.PASSED}, {A: Kind.FAILED}, explained(A, python="3.11"))
    assert [failure.test for failure in verdict.unexplained] == [A]
    assert [] == verdict.stale


def test_a_passing_exception_is_stale() -> None:
    """An entry whose test passes again fails the run."""
    verdict = verdict_of({A: Kind.PASSED}, {A: Kind.PASSED}, explained(A))
    assert verdict.stale == [f"{A}: {A} does not fail on 3.12"]
    assert not verdict.is_good


def test_a_pattern_too_wide_is_stale() -> None:
    """A pattern that covers a passing test beside a failing one fails the run."""
    verdict = verdict_of(
        {A: Kind.PASSED, B: Kind.PASSED},
        {A: Kind.FAILED, B: Kind.PASSED},
        explained("test_events.Epoll.*"),
    )
    assert verdict.stale == [f"test_events.Epoll.*: {B} does not fail on 3.12"]


def test_an_exception_for_no_test_is_stale() -> None:
    """An entry that covers no existing test fails the run, even if intermittent."""
    gone = explained("test_events.Epoll.test_gone", extra="intermittent = true")
    verdict = verdict_of({A: Kind.PASSED}, {A: Kind.PASSED}, gone)
    assert ["test_events.Epoll.test_gone: no such test on 3.12"] == verdict.stale


def test_an_intermittent_exception_may_pass() -> None:
    """If a test has a race, either outcome is excused."""
    verdict = verdict_of(
        {A: Kind.PASSED}, {A: Kind.PASSED}, explained(A, extra="intermittent = true")
    )
    assert verdict.is_good


def test_exceptions_of_modules_not_run_are_not_stale() -> None:
    """A partial run says nothing about the other modules."""
    entry = explained("test_streams.StreamTests.test_gone")
    assert verdict_of({A: Kind.PASSED}, {A: Kind.PASSED}, entry).is_good


def test_a_selection_says_nothing_of_other_exceptions() -> None:
    """Where some tests of a module run, an entry for another is not stale."""
    passed = {A: Outcome(Kind.PASSED)}
    entry = parse_exceptions(explained(B))
    verdict = compare("3.12", ["test_events"], passed, passed, entry, MADE, MADE, is_selection=True)
    assert verdict.is_good


def test_a_run_without_our_loops_proves_nothing() -> None:
    """All tests passed, but on loops that were not ours."""
    strays = {"test_events": LoopCount(n_judged=0, n_stock=5)}
    verdict = verdict_of({A: Kind.PASSED}, {A: Kind.PASSED}, our_loops=strays)
    assert ["test_events"] == verdict.unproven
    assert not verdict.is_good


def test_a_run_without_tests_proves_nothing() -> None:
    """A module without tests is unproven."""
    assert ["test_events"] == verdict_of({}, {}).unproven


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[explaned]]\n", "unknown tables: explaned"),
        ('[[left_out]]\nmodule = "test_x"\n', "lacks reason"),
        ('[[left_out]]\nmodule = "test_x"\nreason = "no"\n', "not a sentence"),
        ('[[left_out]]\nmodule = "test_*"\n' + REASON, "no module of test_asyncio"),
        (explained("test_events.Epoll"), "expected module.Class.test"),
        (explained("*.Epoll.test_a"), "no module of test_asyncio"),
        (explained(A, python="3"), "no version"),
        (explained(A) + explained(A), "listed twice"),
        (explained(A, extra="flaky = true"), "unknown keys flaky"),
        (f'[[left_out]]\nmodule = "test_events"\n{REASON}\n' + explained(A), "left out"),
        ("[[", "Invalid initial character"),
    ],
)
def test_a_bad_exceptions_file_is_refused(text: str, complaint: str) -> None:
    """A mistake in the file is named rather than ignored."""
    with pytest.raises(ExceptionsFileError, match=complaint.replace("*", r"\*")):
        parse_exceptions(text)


def test_our_exceptions_file_is_sound() -> None:
    """The file beside the harness parses."""
    exceptions = read_exceptions(Path(__file__).with_name("exceptions.toml"))
    assert "test_windows_events" in exceptions.modules_left_out


def line(when: str, outcome: str, *, xfail: bool = False, detail: str = "") -> str:
    entry = {
        "nodeid": "test_asyncio/test_events.py::Epoll::test_a",
        "when": when,
        "outcome": outcome,
        "xfail": xfail,
        "detail": detail,
        "duration_s": 0.5,
        "loops": [1, 0],
    }
    return json.dumps(entry)


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([line("setup", "passed"), line("call", "passed"), line("teardown", "passed")], "passed"),
        ([line("setup", "passed"), line("call", "passed"), line("teardown", "failed")], "failed"),
        ([line("setup", "skipped"), line("teardown", "passed")], "skipped"),
        ([line("setup", "passed"), line("call", "skipped", xfail=True)], "xfailed"),
        ([line("setup", "passed")], "absent"),
        ([line("setup", "passed"), line("call", "passed"), line("???", "failed")], "failed"),
    ],
)
def test_the_worst_phase_is_the_outcome(lines: list[str], kind: str) -> None:
    """A test passes only if its body ran and no phase went wrong."""
    folded = fold(lines)
    assert folded.outcomes[A].kind == kind
    assert folded.loops["test_events"] == LoopCount(n_judged=len(lines))


def test_the_stand_in_answers_for_the_judged_class() -> None:
    """Calls, isinstance, subclassing and attributes all reach the judged loop."""

    class Judged(asyncio.SelectorEventLoop):
        pass

    stand_in = StandIn(Judged, Judged)
    selector = selectors.EpollSelector()
    loop = stand_in(selector)
    try:
        assert type(loop) is Judged
        assert isinstance(loop, stand_in)  # type: ignore[arg-type]
        assert not isinstance(object(), stand_in)
        assert selector.get_map() is None, "the selector was not closed"
        assert stand_in.call_soon is Judged.call_soon
    finally:
        loop.close()


INTERPRETER = Interpreter(Path(sys.executable), "3.12", Path(), ())
LIMITS = Limits(n_workers=1, test_s=1.0, session_s=60.0)


def test_a_second_chance_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that passes alone counts as passed, and its first failure is kept."""
    answers = iter([Outcome(Kind.FAILED), Outcome(Kind.PASSED)])
    monkeypatch.setattr(judge, "run_alone", lambda *_: next(answers))
    folded = fold([line("call", "failed", detail="E  boom")])
    (rerun,) = judge.rerun_alone(INTERPRETER, "asyncio", [A], folded, LIMITS, tmp_path)
    assert folded.outcomes[A].kind is Kind.PASSED
    assert (2, "boom") == (rerun.n_runs, rerun.first.headline)


def test_explained_failures_get_no_second_chance() -> None:
    """Only what would count against our loop is run again."""
    stock, ours = fold([line("call", "passed")]), fold([line("call", "failed")])
    assert judge.unexplained_failures("3.12", stock, ours, Exceptions()) == [A]
    assert [] == judge.unexplained_failures(
        "3.12", stock, ours, parse_exceptions(explained(A, extra=""))
    )


DYING = """
import ctypes, os, threading, unittest

class Dying(unittest.TestCase):
    def test_exits(self):
        os._exit(3)

    def test_hangs(self):
        threading.Event().wait()

    def test_hangs_in_native_code(self):
        ctypes.PyDLL(None).pause()

    def test_lives(self):
        pass
"""


def test_a_dying_worker_fails_its_test_only(tmp_path: Path) -> None:
    """A crash, a hang, and a hang that holds the interpreter lock are each one failure."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "test_dying.py").write_text(DYING)
    interpreter = Interpreter(Path(sys.executable), "3.12", package, ("test_dying",))

    session = run_modules(interpreter, "asyncio", ["test_dying"], LIMITS, tmp_path / "session")

    kinds = {test.rpartition(".")[2]: o.kind for test, o in session.folded.outcomes.items()}
    assert kinds == {
        "test_exits": Kind.FAILED,
        "test_hangs": Kind.FAILED,
        "test_hangs_in_native_code": Kind.FAILED,
        "test_lives": Kind.PASSED,
    }
    assert session.trouble is None, session.log.read_text()


MIXIN = """
import unittest

class TestMixin:
    def test_mixed_in(self):
        pass

class Whole(TestMixin, unittest.TestCase):
    def test_own(self):
        pass

def test_function():
    pass
"""


@pytest.mark.parametrize(
    ("patterns", "tests"),
    [
        ((), {"test_mixin.Whole.test_mixed_in", "test_mixin.Whole.test_own"}),
        (("test_other.*", "test_mixin.*.test_o*"), {"test_mixin.Whole.test_own"}),
    ],
)
def test_tests_are_what_unittest_takes_for_such(
    patterns: tuple[str, ...], tests: set[str], tmp_path: Path
) -> None:
    """A mixin is no test case, whatever its name; a selection runs only the tests that it names."""
    (tmp_path / "test_mixin.py").write_text(MIXIN)
    interpreter = Interpreter(Path(sys.executable), "3.12", tmp_path, ("test_mixin",))
    limits = replace(LIMITS, patterns=patterns)
    session = run_modules(interpreter, "asyncio", ["test_mixin"], limits, tmp_path / "session")
    assert session.folded.outcomes.keys() == tests


def test_lent_tests_use_the_helpers_of_the_version_that_runs_them(tmp_path: Path) -> None:
    """Tests of another interpreter are copied without its helpers, and run with the borrower's."""
    donor = probe(Path(sys.executable), "asyncio")
    (interpreter,) = lend_tests(donor, [INTERPRETER], tmp_path / "lent")
    assert interpreter.tests_from == donor.release
    assert not (interpreter.package / "utils.py").exists()
    limits = Limits(1, 60.0, 120.0, ("test_futures.*.test_remove_done_callbacks_list_mutation",))
    session = run_modules(interpreter, "threadlets", ["test_futures"], limits, tmp_path / "run")
    assert {outcome.kind for outcome in session.folded.outcomes.values()} == {Kind.PASSED}
    assert session.trouble is None


def test_an_evil_loop_is_of_the_judged_kind() -> None:
    """Loops with which tests break futures become loops of ours, and keep their own methods."""

    class SimpleEvilEventLoop(asyncio.base_events.BaseEventLoop):
        def get_debug(self) -> bool:
            return True

    tests = SimpleNamespace(SimpleEvilEventLoop=SimpleEvilEventLoop)
    adapt_evil_loop("threadlets", tests)
    loop = tests.SimpleEvilEventLoop()
    try:
        assert isinstance(loop, threadlets.Loop)
        assert loop.get_debug()
        assert _core.Future(loop=loop).get_loop() is loop
    finally:
        loop.close()


def test_a_process_that_dies_alone_has_failed(tmp_path: Path) -> None:
    """Where there is no worker to lose, the lost process is the failure."""
    (tmp_path / "test_dying.py").write_text(DYING)
    interpreter = Interpreter(Path(sys.executable), "3.12", tmp_path, ("test_dying",))
    test = "test_dying.Dying.test_exits"
    outcome = run_alone(interpreter, "asyncio", test, LIMITS, tmp_path / "alone")
    assert outcome.kind is Kind.FAILED
    assert "the process ended during the test" == outcome.headline
