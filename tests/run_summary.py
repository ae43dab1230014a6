"""What a test run says at its end: which engines it has tested, and how many tests it has skipped, and why.

Tests of io_uring, which have it as a parameter or the mark `needs_uring`, are skipped where it does not work.
"""

from __future__ import annotations

import collections
import functools
import re

import pytest
from threadlets.testing import use_engine

_ENGINES = ("uring", "workers", "sim")


@functools.cache
def _why_not_uring() -> str | None:
    """Return why io_uring does not work here; None if it does."""
    try:
        with use_engine("uring"):
            return None
    except OSError as error:
        return str(error)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _why_not_uring() is None:
        return
    for item in items:
        if "uring" in _engines_of(item.nodeid) or item.get_closest_marker("needs_uring"):
            item.add_marker(pytest.mark.skip(reason="io_uring does not work here"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    n_tests: collections.Counter[str] = collections.Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            n_tests.update(_engines_of(report.nodeid))
    n_skipped: collections.Counter[str] = collections.Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        _, _, reason = report.longrepr
        n_skipped[reason.removeprefix("Skipped: ")] += 1
    terminalreporter.section("engines and skips")
    for engine in _ENGINES:
        terminalreporter.line(f"tests on the engine {engine}: {n_tests[engine]}")
    if (why_not := _why_not_uring()) is not None:
        terminalreporter.line(f"IO_URING WAS NOT TESTED: {why_not}")
    for reason, count in n_skipped.most_common():
        terminalreporter.line(f"skipped {count}: {reason}")


def _engines_of(test: str) -> set[str]:
    """Return the engines among the parameters of a test, by its name."""
    return set(_ENGINES) & set(re.split(r"[\[\]-]", test.partition("[")[2]))
