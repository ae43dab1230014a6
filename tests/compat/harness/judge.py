"""Judge our loop on one interpreter: two sessions, second chances, one comparison.

Knows nothing of the command line, nor of how results are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.exceptions import Exceptions
from harness.loops import STOCK
from harness.outcomes import Folded, Kind, Outcome
from harness.report import InterpreterReport, Rerun
from harness.session import Interpreter, Limits, Session, run_alone, run_modules
from harness.verdict import compare, explain, is_failure

N_RERUNS_MAX = 2


def judge(
    interpreter: Interpreter,
    loop: str,
    modules: Sequence[str],
    exceptions: Exceptions,
    limits: Limits,
    scratch: Path,
) -> InterpreterReport:
    """Run both sessions on one interpreter and compare them."""
    stock = run_modules(interpreter, STOCK, modules, limits, scratch / "stock")
    # A test that fails on the stock loop by chance would excuse ours.
    failed_on_stock = [t for t, o in stock.folded.outcomes.items() if o.kind is Kind.FAILED]
    reruns = rerun_alone(
        interpreter, STOCK, failed_on_stock, stock.folded, limits, scratch / "stock-alone"
    )

    ours = run_modules(interpreter, loop, modules, limits, scratch / "ours")
    failed = unexplained_failures(interpreter.python, stock.folded, ours.folded, exceptions)
    reruns += rerun_alone(interpreter, loop, failed, ours.folded, limits, scratch / "alone")

    verdict = compare(
        interpreter.python,
        modules,
        stock.folded.outcomes,
        ours.folded.outcomes,
        exceptions,
        stock.folded.loops,
        ours.folded.loops,
        is_selection=bool(limits.patterns) or interpreter.tests_from is not None,
    )
    troubles = list(_troubles(stock, ours))
    return InterpreterReport(
        str(interpreter.path),
        _name(interpreter),
        loop,
        verdict,
        reruns,
        troubles,
        stock.seconds,
        ours.seconds,
    )


def rerun_alone(
    interpreter: Interpreter,
    loop: str,
    tests: Iterable[str],
    folded: Folded,
    limits: Limits,
    scratch: Path,
) -> list[Rerun]:
    """Give each test another chance in a process of its own; enter its last outcome."""
    reruns = []
    for idx, test in enumerate(tests):
        first = last = folded.outcomes.get(test, Outcome())
        n_runs = 0
        while n_runs < N_RERUNS_MAX and last.kind is not Kind.PASSED:
            place = scratch / f"{idx}-{n_runs}"
            again = run_alone(interpreter, loop, test, limits, place)
            n_runs += 1
            if again.kind is Kind.SKIPPED and last.kind is Kind.SKIPPED:
                # A skip is a decision of the test, not chance.
                break
            last = again
        folded.outcomes[test] = last
        reruns.append(Rerun(test, first, n_runs, last, loop))
    return reruns


def unexplained_failures(
    python: str, stock: Folded, ours: Folded, exceptions: Exceptions
) -> list[str]:
    """Return the tests that count against our loop unless they pass alone."""
    return [
        test
        for test in sorted(stock.outcomes.keys() | ours.outcomes.keys())
        if is_failure(stock.outcomes.get(test, Outcome()), ours.outcomes.get(test, Outcome()))
        and explain(exceptions, test, python) is None
    ]


def _name(interpreter: Interpreter) -> str:
    if interpreter.tests_from is None:
        return interpreter.release
    return f"{interpreter.release} with the tests of {interpreter.tests_from}"


def _troubles(stock: Session, ours: Session) -> Iterator[str]:
    for name, session in (("stock", stock), ("ours", ours)):
        if session.trouble is not None:
            yield f"{name}: {session.trouble} (log: {session.log})"
