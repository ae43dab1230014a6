"""Run a suite once, on one loop, to its end. Knows nothing of comparison.

A process that a test ends, or that gets stuck in one, costs that test: another one goes on behind it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from harness.outcomes import Outcome, fold
from harness.session import Limits, _run_group

from suite_runs.catalogue import Suite
from suite_runs.environment import Environment

_HERE = Path(__file__).resolve().parent.parent
_PATHS = (_HERE / "site", _HERE, _HERE.parent / "compat", _HERE.parent.parent / "python")
N_PROCESSES_MAX = 30


@dataclass
class Session:
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    n_loops: int = 0
    """How many loops of the judged kind the tests have made."""
    n_loops_stray: int = 0
    troubles: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run(
    suite: Suite,
    environment: Environment,
    loop: str,
    mode: str,
    limits: Limits,
    scratch: Path,
    only: Iterable[str] | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Session:
    """Run the suite's tests, or those named in `only`, and return their outcomes."""
    scratch.mkdir(parents=True, exist_ok=True)
    session, started = Session(), time.monotonic()
    record, log = scratch / "record.jsonl", scratch / "log.txt"
    record.write_text("")
    log.write_text("")
    env = _environment(suite, loop, mode, limits, record) | dict(variables)
    if only is not None:
        env["SUITES_ONLY"] = str(scratch / "only.txt")
        (scratch / "only.txt").write_text("\n".join(only))
    env["SUITES_SKIP"] = str(scratch / "skip.txt")
    command: list[str | Path] = [environment.python, "-m", "pytest", "-q", "--tb=short"]
    command += ["-p", "suite_runs.plugin", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0"]
    command += ["-c", environment.settings, "--rootdir", environment.tests]
    command += ["-o", "addopts=", "--timeout", str(limits.test_s), *suite.arguments]
    for setting in suite.settings:
        command += ["-o", setting]
    for _ in range(N_PROCESSES_MAX):
        (scratch / "skip.txt").write_text("\n".join([*_tests(record, "started"), *suite.left_out]))
        left_s = limits.session_s - (time.monotonic() - started)
        with log.open("ab") as sink:
            limit = Limits(1, limits.test_s, max(left_s, 1))
            status = _run_group(command, env, environment.tests, sink, limit)
        unfinished = _tests(record, "started") - _tests(record, "ended")
        how = "at the session's limit" if status is None else f"with status {status}"
        for test in unfinished:
            _lose(record, test, f"the process ended {how} during the test")
        if status is None:
            session.troubles.append(f"ended at the session's limit of {limits.session_s:.0f} s")
            break
        if not unfinished:
            # 5: no tests; all had run when the process before was ended.
            if status not in (0, 1, 5):
                session.troubles.append(f"pytest ended with status {status} (log: {log})")
            break
    _read(record, session)
    session.seconds = time.monotonic() - started
    return session


def recorded(scratch: Path) -> Session | None:
    """Return what a session that ran here before has recorded, if one did."""
    record, session = scratch / "record.jsonl", Session()
    if not record.exists():
        return None
    _read(record, session)
    return session


def _read(record: Path, session: Session) -> None:
    with record.open(encoding="utf-8") as lines:
        folded = fold((it for it in lines if json.loads(it).keys() & {"nodeid", "collect"}), str)
    session.outcomes = folded.outcomes
    session.troubles += [f"not collected: {error[:200]}" for error in folded.collect_errors]
    session.n_loops = sum(count.n_judged for count in folded.loops.values())
    session.n_loops_stray = sum(count.n_stock for count in folded.loops.values())


def _lose(record: Path, test: str, detail: str) -> None:
    failed = {"nodeid": test, "when": "call", "outcome": "failed", "xfail": False, "detail": detail}
    with record.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(failed | {"duration_s": 0.0, "loops": [0, 0]}) + "\n")
        lines.write(json.dumps({"ended": test}) + "\n")


def _tests(record: Path, what: str) -> set[str]:
    with record.open(encoding="utf-8") as lines:
        entries = map(json.loads, lines)
        return {entry[what] for entry in entries if what in entry}


def _environment(
    suite: Suite, loop: str, mode: str, limits: Limits, record: Path
) -> dict[str, str]:
    foreign = ("PYTEST_", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONWARNINGS", "THREADLETS_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {
        "PYTHONPATH": os.pathsep.join(map(str, _PATHS)),
        "SUITES_LOOP": loop,
        "SUITES_RECORD": str(record),
        # Later than pytest-timeout, whose report is the better one.
        "SUITES_STUCK_S": str(limits.test_s * 1.5),
    }
    if mode == "debug":
        env["PYTHONASYNCIODEBUG"] = "1"
    return env | suite.environment
