"""The pytest plugin of a session: record each outcome, end a test that is stuck.

Settings arrive by environment: SUITES_RECORD is the file that outcomes are written to; SUITES_ONLY
and SUITES_SKIP are files that name tests; SUITES_STUCK_S is how long a test may hold the GIL.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Generator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Keep a descriptor for the stacks of a process that is ended: pytest captures the usual one."""
    config.stash[_DUMP_FD] = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)


_DUMP_FD = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has an outcome already, and what is not asked for."""
    only, skipped = _names("SUITES_ONLY"), _names("SUITES_SKIP")
    patterns = [name for name in skipped or () if "*" in name]

    def is_wanted(name: str) -> bool:
        if only is not None and name not in only:
            return False
        return name not in (skipped or ()) and not any(fnmatchcase(name, it) for it in patterns)

    config.hook.pytest_deselected(items=[it for it in items if not is_wanted(it.nodeid)])
    items[:] = [it for it in items if is_wanted(it.nodeid)]


def _names(variable: str) -> set[str] | None:
    path = os.environ.get(variable)
    return set(Path(path).read_text(encoding="utf-8").split("\n")) if path else None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Have a C thread watch a test: one of Python cannot fire while native code holds the GIL."""
    _record({"started": item.nodeid})
    stuck_s = float(os.environ["SUITES_STUCK_S"])
    faulthandler.dump_traceback_later(stuck_s, exit=True, file=item.config.stash[_DUMP_FD])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        _record({"ended": item.nodeid})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the outcome of a phase."""
    _record(
        {
            "nodeid": report.nodeid,
            "when": report.when,
            "outcome": report.outcome,
            "xfail": hasattr(report, "wasxfail"),
            "detail": "" if report.passed else report.longreprtext,
            "duration_s": getattr(report, "duration", 0.0),
            "loops": _loops_made(),
        }
    )


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record a file that cannot be collected."""
    if report.failed:
        _record({"collect": report.nodeid, "detail": report.longreprtext})


def _loops_made() -> list[int]:
    census = getattr(sys.modules.get("sitecustomize"), "CENSUS", None)
    return list(census.take()) if census is not None else [0, 0]


def _record(line: dict[str, Any]) -> None:
    # One open per line: what was recorded survives any end of this process.
    with Path(os.environ["SUITES_RECORD"]).open("a", encoding="utf-8") as record:
        record.write(json.dumps(line) + "\n")
