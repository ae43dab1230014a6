"""Compare a session on our loop with one on the stock loop.

The rule: what the stock loop passes, ours passes, or exceptions.toml says why
not; and what it says is still true.  Knows nothing of processes or pytest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.exceptions import Exceptions, Explained
from harness.outcomes import Kind, LoopCount, Outcome, module_of


@dataclass(frozen=True)
class Failure:
    test: str
    outcome: Outcome
    explanation: Explained | None = None


@dataclass
class ModuleVerdict:
    module: str
    n_stock_passed: int = 0
    n_passed: int = 0
    n_loops_judged: int = 0
    n_loops_stray: int = 0
    explained: list[Failure] = field(default_factory=list)
    unexplained: list[Failure] = field(default_factory=list)
    failed_on_both: list[Failure] = field(default_factory=list)
    is_unproven: bool = False
    """Nothing was judged here: no test passed on the stock loop, or only the
    stock session made loops."""


@dataclass
class Verdict:
    python: str
    modules: list[ModuleVerdict] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    @property
    def unexplained(self) -> list[Failure]:
        return [failure for module in self.modules for failure in module.unexplained]

    @property
    def unproven(self) -> list[str]:
        return [module.module for module in self.modules if module.is_unproven]

    @property
    def n_passed(self) -> int:
        return sum(module.n_passed for module in self.modules)

    @property
    def is_good(self) -> bool:
        return not (self.unexplained or self.unproven or self.stale)


def compare(
    python: str,
    modules: Sequence[str],
    stock: Mapping[str, Outcome],
    ours: Mapping[str, Outcome],
    exceptions: Exceptions,
    stock_loops: Mapping[str, LoopCount],
    our_loops: Mapping[str, LoopCount],
    *,
    is_selection: bool = False,
) -> Verdict:
    """Return what one interpreter's two sessions say about our loop.

    A selection of a module's tests says nothing of the exceptions for the others.
    """
    verdicts = {module: ModuleVerdict(module) for module in modules}
    for test in sorted(stock.keys() | ours.keys()):
        if (verdict := verdicts.get(module_of(test))) is None:
            continue
        judge_test(verdict, python, test, stock, ours, exceptions)
    for module, verdict in verdicts.items():
        count = our_loops.get(module, LoopCount())
        verdict.n_loops_judged, verdict.n_loops_stray = count.n_judged, count.n_stock
        made_by_stock = stock_loops.get(module, LoopCount()).n_judged
        made_no_loop = made_by_stock > 0 and count.n_judged == 0
        verdict.is_unproven = verdict.n_stock_passed == 0 or made_no_loop
    stale = [] if is_selection else find_stale(python, modules, stock, ours, exceptions)
    return Verdict(python, list(verdicts.values()), stale)


def judge_test(
    verdict: ModuleVerdict,
    python: str,
    test: str,
    stock: Mapping[str, Outcome],
    ours: Mapping[str, Outcome],
    exceptions: Exceptions,
) -> None:
    """Enter one test into its module's verdict."""
    expected, actual = stock.get(test, Outcome()), ours.get(test, Outcome())
    verdict.n_stock_passed += expected.kind is Kind.PASSED
    verdict.n_passed += actual.kind is Kind.PASSED
    if not is_failure(expected, actual):
        if expected.kind is Kind.FAILED and actual.kind is not Kind.PASSED:
            verdict.failed_on_both.append(Failure(test, expected))
        return
    explanation = explain(exceptions, test, python)
    failures = verdict.unexplained if explanation is None else verdict.explained
    failures.append(Failure(test, actual, explanation))


def is_failure(expected: Outcome, actual: Outcome) -> bool:
    """Return whether our loop owes this test better.

    A test that the stock loop passes counts when ours skips or loses it, too;
    one that the stock loop skips counts only when ours fails it.  One that ends our
    process counts whatever the stock loop does.
    """
    if actual.is_crash:
        return True
    if expected.kind is Kind.PASSED:
        return actual.kind is not Kind.PASSED
    return actual.kind is Kind.FAILED and expected.kind is not Kind.FAILED


def explain(exceptions: Exceptions, test: str, python: str) -> Explained | None:
    return next((entry for entry in exceptions.explained if entry.covers(test, python)), None)


def find_stale(
    python: str,
    modules: Sequence[str],
    stock: Mapping[str, Outcome],
    ours: Mapping[str, Outcome],
    exceptions: Exceptions,
) -> list[str]:
    """Return a sentence for each entry that no longer holds on this interpreter.

    Every test that a pattern covers must fail: a pattern that also covers a
    passing one would hide that test's next failure.
    """
    stale = []
    for entry in exceptions.explained:
        if python not in entry.pythons or entry.module not in modules:
            continue
        covered = [t for t in sorted(stock.keys() | ours.keys()) if entry.covers(t, python)]
        if not covered:
            stale.append(f"{entry.pattern}: no such test on {python}")
        if entry.intermittent:
            continue
        stale += [
            f"{entry.pattern}: {test} does not fail on {python}"
            for test in covered
            if not is_failure(stock.get(test, Outcome()), ours.get(test, Outcome()))
        ]
    return stale
