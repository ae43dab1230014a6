"""The pytest plugin of a compat session: install the loop, record each outcome.

Knows nothing of comparison.  Settings arrive by environment, because xdist
workers inherit it: COMPAT_LOOP, COMPAT_RECORD, COMPAT_STUCK_S, COMPAT_TESTS
and COMPAT_TESTS_FROM.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import sys
from collections.abc import Generator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from harness.loops import STOCK, adapt_close_loop, adapt_names, install
from harness.natives import adapt_classes, adapt_evil_loop
from harness.outcomes import test_id

LOOPS_PROPERTY = "compat_loops"


def pytest_configure(config: pytest.Config) -> None:
    loop = os.environ["COMPAT_LOOP"]
    census = install(loop)
    if os.environ["COMPAT_TESTS_FROM"]:
        adapt_names()
    if loop != STOCK:
        adapt_close_loop()
        adapt_classes(loop)
    # pytest captures descriptor 2 during tests; a stack dump must reach the log.
    dump_fd = os.dup(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)
    faulthandler.enable(dump_fd)
    stuck_s = float(os.environ["COMPAT_STUCK_S"])
    config.pluginmanager.register(_TestWatch(census, stuck_s, dump_fd), "compat-watch")
    if not hasattr(config, "workerinput"):
        recorder = _Recorder(Path(os.environ["COMPAT_RECORD"]))
        config.pluginmanager.register(recorder, "compat-recorder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    loop = os.environ["COMPAT_LOOP"]
    if loop != STOCK:
        for module in {item.getparent(pytest.Module) for item in items}:
            if module is not None:
                adapt_evil_loop(loop, module.obj)
    patterns = os.environ["COMPAT_TESTS"].split()
    if patterns:
        items[:] = [
            item for item in items if any(fnmatchcase(test_id(item.nodeid), it) for it in patterns)
        ]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    # Some tests collect garbage a hundred times: have them look at their own objects only, not at
    # all that pytest and the tests before keep.
    gc.collect()
    gc.freeze()


class _TestWatch:
    """Runs where the tests run: counts loops per test, ends stuck processes."""

    def __init__(self, census: Any, stuck_s: float, dump_fd: int) -> None:
        self._census = census
        self._stuck_s = stuck_s
        self._dump_fd = dump_fd

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        # The timer of pytest-timeout is a Python thread: it cannot fire while
        # native code holds the interpreter lock.  This one is a C thread.
        faulthandler.dump_traceback_later(self._stuck_s, exit=True, file=self._dump_fd)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        report.user_properties.append((LOOPS_PROPERTY, list(self._census.take())))
        return report


class _Recorder:
    """Runs in the controlling process, which outlives crashed workers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        loops = [0, 0]
        for name, value in report.user_properties:
            if name == LOOPS_PROPERTY and isinstance(value, (list, tuple)):
                loops = [loops[0] + value[0], loops[1] + value[1]]
        self._write(
            {
                "nodeid": report.nodeid,
                "when": report.when,
                "outcome": report.outcome,
                "xfail": hasattr(report, "wasxfail"),
                "detail": _detail(report),
                "duration_s": getattr(report, "duration", 0.0),
                "loops": loops,
            }
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write({"collect": report.nodeid, "detail": report.longreprtext})

    def _write(self, line: dict[str, Any]) -> None:
        # One open per line: what was recorded survives any end of this process.
        with self._path.open("a", encoding="utf-8") as record:
            record.write(json.dumps(line) + "\n")


def _detail(report: pytest.TestReport) -> str:
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return report.longreprtext
