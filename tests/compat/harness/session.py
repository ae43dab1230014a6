"""Run test_asyncio once, on one interpreter and one loop, in its own process group.

Knows nothing of comparison.  Whatever ends the session, the tests recorded so
far keep their outcome and the rest are absent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from harness.outcomes import PROCESS_ENDED, Folded, Kind, Outcome, fold

_HARNESS_ROOT: Final = Path(__file__).resolve().parent.parent
_PROBE: Final = """
import importlib, json, os, sys
names = ["pytest", "xdist", "pytest_timeout", "test.test_asyncio", sys.argv[1]]
absent = []
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        absent.append(f"{name} ({error})")
tests = sys.modules.get("test.test_asyncio")
package = tests.__path__[0] if tests else ""
files = os.listdir(package) if tests else []
modules = sorted(f[:-3] for f in files if f.startswith("test_") and f.endswith(".py"))
python = "{}.{}".format(*sys.version_info)
release = "{}.{}.{}".format(*sys.version_info) + sys.abiflags
facts = {"python": python, "release": release, "package": package, "absent": absent, "modules": modules}
print(json.dumps(facts))
"""


_COPY: Final = """
import shutil, sys, test.test_asyncio
helpers = shutil.ignore_patterns("__init__.py", "__main__.py", "utils.py", "functional.py", "__pycache__")
shutil.copytree(test.test_asyncio.__path__[0], sys.argv[1], ignore=helpers)
"""


class InterpreterUnusableError(RuntimeError):
    """The interpreter cannot run the session; the message says what to install."""


@dataclass(frozen=True)
class Interpreter:
    path: Path
    python: str
    """Its version, such as '3.12'."""
    package: Path
    """Where the tests for it live."""
    modules: tuple[str, ...]
    """The test modules that there are."""
    release: str = ""
    """Its version to the last digit, such as '3.12.1'; a build with assertions has a d, '3.14.10d'."""
    tests_from: str | None = None
    """The version that the tests are of, if they are not its own."""


@dataclass(frozen=True)
class Limits:
    n_workers: int
    test_s: float
    session_s: float
    patterns: tuple[str, ...] = ()
    """Run those tests only, such as 'test_tasks.*.test_evil*'; none means all."""


@dataclass
class Session:
    folded: Folded
    exit_status: int | None
    """pytest's status, or None if the session outlived its limit."""
    seconds: float
    log: Path

    @property
    def trouble(self) -> str | None:
        """Why outcomes may be lost, or None after an ordinary end."""
        if self.exit_status is None:
            return f"the session was ended at its limit of {self.seconds:.0f} s"
        if self.exit_status not in (0, 1):
            return f"pytest ended with status {self.exit_status}"
        if self.folded.collect_errors:
            return "collection failed: " + "; ".join(self.folded.collect_errors)
        return None


def probe(path: Path, loop: str) -> Interpreter:
    """Ask the interpreter what it is; raise InterpreterUnusableError if it lacks something."""
    try:
        answer = subprocess.run(
            [path, "-c", _PROBE, loop], capture_output=True, text=True, timeout=60, cwd="/"
        )
    except OSError as error:
        raise InterpreterUnusableError(f"{path} does not start: {error}") from None
    if answer.returncode != 0:
        raise InterpreterUnusableError(
            f"{path} fails at its first import:\n{answer.stderr.strip()}"
        )
    facts = json.loads(answer.stdout)
    if facts["absent"]:
        raise InterpreterUnusableError(
            f"{path} cannot import {', '.join(facts['absent'])}; install what is missing into "
            "its environment (test.test_asyncio comes with a CPython built with its tests)"
        )
    package = Path(facts["package"])
    return Interpreter(path, facts["python"], package, tuple(facts["modules"]), facts["release"])


def lend_tests(
    donor: Interpreter, interpreters: Sequence[Interpreter], place: Path
) -> list[Interpreter]:
    """Return the interpreters with the tests of another, which may live in a root of its own.

    The copies are modules of no package: their helpers, `test.test_asyncio.utils` and `test.support`, are
    those of the interpreter that runs them.
    """
    package = place / "test_asyncio"
    subprocess.run([donor.path, "-c", _COPY, package], check=True, cwd="/")
    return [
        replace(it, package=package, modules=donor.modules, tests_from=donor.release)
        for it in interpreters
    ]


def run_modules(
    interpreter: Interpreter, loop: str, modules: Sequence[str], limits: Limits, scratch: Path
) -> Session:
    """Run whole modules in parallel workers; a worker that dies fails its test only."""
    targets = [str(interpreter.package / f"{module}.py") for module in modules]
    # xdist gives up after a few lost workers by default; each loss is one test here.
    workers = ["-p", "xdist.plugin", "-n", str(limits.n_workers), "--max-worker-restart=100000"]
    return _run(interpreter, loop, [*workers, *targets], limits, scratch)


def run_alone(
    interpreter: Interpreter, loop: str, test: str, limits: Limits, scratch: Path
) -> Outcome:
    """Run one test in a process of its own and return its outcome."""
    module, *names = test.split(".")
    target = "::".join([str(interpreter.package / f"{module}.py"), *names])
    # A limit of its own: what a test leaves may keep the process from ending.
    limits = replace(limits, session_s=min(limits.session_s, 4 * limits.test_s))
    session = _run(interpreter, loop, [target], limits, scratch)
    outcome = session.folded.outcomes.get(test, Outcome())
    if outcome.kind is Kind.ABSENT:
        tail = session.log.read_text(errors="replace")[-4000:]
        return Outcome(Kind.FAILED, f"{tail}\n{PROCESS_ENDED}", session.seconds)
    return outcome


def _run(
    interpreter: Interpreter, loop: str, arguments: list[str], limits: Limits, scratch: Path
) -> Session:
    scratch.mkdir(parents=True)
    cwd = scratch / "cwd"
    cwd.mkdir()
    # A file of our own, lest pytest finds the settings of some project above. What is a test is as
    # unittest has it: some mixins are named as pytest has classes of tests named.
    ini, record, log = scratch / "pytest.ini", scratch / "record.jsonl", scratch / "log.txt"
    ini.write_text("[pytest]\npython_classes =\npython_functions =\n")
    record.touch()
    command: list[str | Path] = [interpreter.path, "-m", "pytest", "-q", "--tb=short"]
    # Node ids are relative to the root; outside of it they would lack their module.
    command += ["-c", ini, "--rootdir", interpreter.package, "--assert=plain"]
    command += ["-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "harness.plugin"]
    command += ["-p", "pytest_timeout", "--timeout", str(limits.test_s)]
    command += ["--timeout-method=thread", *arguments]
    started = time.monotonic()
    with log.open("wb") as sink:
        status = _run_group(
            command, _environment(interpreter, loop, record, limits), cwd, sink, limits
        )
    seconds = time.monotonic() - started
    with record.open(encoding="utf-8") as lines:
        return Session(fold(lines), status, seconds, log)


def _run_group(
    command: list[str | Path], env: dict[str, str], cwd: Path, sink: IO[bytes], limits: Limits
) -> int | None:
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(limits.session_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # A killed controller leaves workers, a killed worker its subprocesses.
        _kill_group(process.pid)
        process.wait()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _environment(
    interpreter: Interpreter, loop: str, record: Path, limits: Limits
) -> dict[str, str]:
    foreign = ("PYTEST_", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONWARNINGS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(_HARNESS_ROOT),
        "COMPAT_LOOP": loop,
        "COMPAT_RECORD": str(record),
        # Later than pytest-timeout, whose report is the better one.
        "COMPAT_STUCK_S": str(limits.test_s * 1.25),
        "COMPAT_TESTS": " ".join(limits.patterns),
        "COMPAT_TESTS_FROM": interpreter.tests_from or "",
    }
    return env
