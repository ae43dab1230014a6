"""Fold the lines that the plugin records into one outcome per test.

Knows nothing of what is expected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

PROCESS_ENDED = "the process ended during the test"
# As xdist puts it: "worker 'gw0' crashed while running '...'".
_WORKER_ENDED = "' crashed while running '"


class Kind(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    ABSENT = "absent"
    """The test never finished: not collected, or lost with its process."""


@dataclass
class Outcome:
    kind: Kind = Kind.ABSENT
    detail: str = ""
    duration_s: float = 0.0

    @property
    def is_crash(self) -> bool:
        """Whether the test's process ended with it, as the last line says."""
        return self.kind is Kind.FAILED and (
            self.headline == PROCESS_ENDED or _WORKER_ENDED in self.headline
        )

    @property
    def headline(self) -> str:
        """The line of the detail that names the error."""
        lines = [line.strip() for line in self.detail.splitlines() if line.strip()]
        errors = [line[1:].strip() for line in lines if line.startswith("E ")]
        return (errors or lines[-1:] or [self.kind.value])[0]


@dataclass
class LoopCount:
    n_judged: int = 0
    n_stock: int = 0


@dataclass
class Folded:
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    loops: dict[str, LoopCount] = field(default_factory=dict)
    collect_errors: list[str] = field(default_factory=list)


def fold(lines: Iterable[str], name: Callable[[str], str] | None = None) -> Folded:
    """Return the outcome of each test: its worst phase, passed only if its body passed.

    Tests go by `test_id`, unless `name` gives them another name.
    """
    name = name or test_id
    folded = Folded()
    for line in lines:
        entry = json.loads(line)
        if "collect" in entry:
            folded.collect_errors.append(f"{entry['collect']}: {entry['detail']}")
            continue
        test = name(entry["nodeid"])
        outcome = folded.outcomes.setdefault(test, Outcome())
        outcome.duration_s += entry["duration_s"]
        kind = _kind(entry)
        if kind is not None and _BADNESS[kind] > _BADNESS[outcome.kind]:
            outcome.kind, outcome.detail = kind, entry["detail"]
        count = folded.loops.setdefault(module_of(test), LoopCount())
        count.n_judged += entry["loops"][0]
        count.n_stock += entry["loops"][1]
    return folded


def test_id(nodeid: str) -> str:
    """Return 'test_x.Class.test_y', the same wherever the interpreter lives."""
    path, _, names = nodeid.partition("::")
    assert path, f"{nodeid!r} names no module"
    return ".".join([PurePosixPath(path).stem, *names.split("::")])


test_id.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test, a test's id


def module_of(test: str) -> str:
    return test.partition(".")[0]


_BADNESS = {
    Kind.ABSENT: 0,
    Kind.PASSED: 1,
    Kind.XFAILED: 2,
    Kind.SKIPPED: 3,
    Kind.FAILED: 4,
}


def _kind(entry: dict[str, Any]) -> Kind | None:
    if entry["outcome"] == "failed":
        return Kind.FAILED
    if entry["outcome"] == "skipped":
        return Kind.XFAILED if entry["xfail"] else Kind.SKIPPED
    # A passed setup or teardown says nothing of the body.
    return Kind.PASSED if entry["when"] == "call" else None
