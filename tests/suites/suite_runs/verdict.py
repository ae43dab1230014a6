"""Compare a suite's session on our loop with the one on the stock loop. Knows nothing of processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.outcomes import Kind, Outcome
from harness.verdict import is_failure

from suite_runs.catalogue import Explained
from suite_runs.session import Session


@dataclass
class Difference:
    """A test that the stock loop passes (or skips) and that fails on ours."""

    test: str
    error: str
    reason: str = ""
    """Empty: nobody has explained it."""


@dataclass
class Verdict:
    """What a suite says in one mode; in results.json as it is here."""

    n_stock_passed: int
    n_passed: int
    n_failed_on_both: int
    n_loops: int
    differences: list[Difference]
    unsteady: list[str] = field(default_factory=list)
    """Tests that failed on our loop first, and passed when they were run again."""
    troubles: list[str] = field(default_factory=list)
    """Why outcomes may be missing."""
    stale: list[str] = field(default_factory=list)
    """Explanations of tests that do not differ."""

    @property
    def unexplained(self) -> list[Difference]:
        return [it for it in self.differences if not it.reason]

    @property
    def is_good(self) -> bool:
        return not (self.unexplained or self.stale or self.troubles) and self.n_passed > 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Verdict:
        differences = [Difference(**it) for it in stored["differences"]]
        return cls(**{**stored, "differences": differences})


def differing(stock: Session, ours: Session) -> list[str]:
    """Return the tests for which our loop owes better."""
    tests = stock.outcomes.keys() | ours.outcomes.keys()
    absent = Outcome()
    return sorted(
        test
        for test in tests
        if is_failure(stock.outcomes.get(test, absent), ours.outcomes.get(test, absent))
    )


def compare(
    suite: str,
    mode: str,
    stock: Session,
    ours: Session,
    again: Mapping[str, Outcome],
    explained: Iterable[Explained],
) -> Verdict:
    """Return what two sessions say; `again` has outcomes on our loop of tests that were run again."""
    entries = [it for it in explained if it.suite == suite and mode in it.modes]
    tests = differing(stock, ours)
    unsteady = [it for it in tests if again.get(it, Outcome()).kind is Kind.PASSED]
    differences = []
    for test in tests:
        entry = next((it for it in entries if it.covers(suite, mode, test)), None)
        if test in unsteady and entry is None:
            continue
        outcome = ours.outcomes.get(test, Outcome())
        error = outcome.headline if outcome.kind is Kind.FAILED else outcome.kind.value
        differences.append(Difference(test, error[:200], entry.reason if entry else ""))
    stale = [
        f"{it.test}: no test that it covers differs"
        for it in entries
        if not it.intermittent and not any(it.covers(suite, mode, test) for test in tests)
    ]
    return Verdict(
        n_stock_passed=_count(stock, Kind.PASSED),
        n_passed=_count(ours, Kind.PASSED) + len(unsteady),
        n_failed_on_both=sum(
            outcome.kind is Kind.FAILED and ours.outcomes.get(test, Outcome()).kind is Kind.FAILED
            for test, outcome in stock.outcomes.items()
        ),
        n_loops=ours.n_loops,
        differences=differences,
        unsteady=unsteady,
        troubles=[
            *(f"stock: {it}" for it in stock.troubles if it not in ours.troubles),
            *(it for it in ours.troubles if it not in stock.troubles),
        ],
        stale=stale,
    )


def _count(session: Session, kind: Kind) -> int:
    return sum(outcome.kind is kind for outcome in session.outcomes.values())
