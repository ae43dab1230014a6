"""Run CPython's own asyncio tests on our loop and hold it to the stock loop's results.

    python tests/compat/run.py [--python PATH ...] [--modules events streams ...]
    python tests/compat/run.py --evil --tests-from .venv-3.15/bin/python --python .venv-3.12/bin/python

Exit status 0: our loop passes all that the stock loop passes, or exceptions.toml
says why not.  1: something unexplained, stale, unproven, or lost.  2: the run
could not start.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.exceptions import Exceptions, ExceptionsFileError, read_exceptions
from harness.judge import judge
from harness.loops import STOCK
from harness.report import as_json, final_line, table
from harness.session import Interpreter, InterpreterUnusableError, Limits, lend_tests, probe

QUICK = ("events", "streams", "sock_lowlevel", "server", "buffered_proto", "unix_events")
# Tests of native futures and tasks that let Python code run while they change: callbacks, loops and
# results whose methods change the future, the task or the heap under them.
EVIL = (
    "test_futures.*.test_*list_mutation*",
    "test_futures.*.test_*list_clear",
    "test_futures.*.test_*evil*",
    "test_futures.*.test_*segfault",
    "test_futures.*.test_*no_crash",
    "test_futures.*.test_*del_collect",
    "test_futures.*.test_*uninitialized*",
    "test_futures.*.test_*multiple_initialization",
    "test_tasks.*.test_*del_collect",
    "test_tasks.*.test_*segfault",
    "test_tasks.*.test_*not_crash*",
    "test_tasks.*.test_*resurrection",
    "test_tasks.*.test_task_created_during_thread_state_clear",
)


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    # SIGTERM must end the sessions, too: they live in process groups of their own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with _scratch(options.logs) as scratch:
        try:
            exceptions = read_exceptions(options.exceptions)
            interpreters = _interpreters(options, scratch)
            wanted = _wanted(options, interpreters, exceptions)
        except (ExceptionsFileError, InterpreterUnusableError, UnknownModuleError) as error:
            print(error, file=sys.stderr)
            return 2
        # The file explains failures of our loop; any other loop is judged without it.
        judged_by = exceptions if options.loop == "threadlets" else exceptions.without_explained()
        patterns = EVIL if options.evil else ()
        limits = Limits(options.workers, options.timeout, options.session_timeout, patterns)

        reports = []
        for idx, interpreter in enumerate(interpreters):
            modules = [m for m in interpreter.modules if m in wanted]
            place = scratch / f"{idx}-{interpreter.python}"
            report = judge(interpreter, options.loop, modules, judged_by, limits, place)
            reports.append(report)
            print(table(report), end="\n\n", flush=True)
    is_part = options.modules or options.quick or options.evil
    gone = [] if is_part else modules_gone(exceptions, interpreters)
    for entry in gone:
        print(f"stale exception: module {entry} is left out but exists on no interpreter here")
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(reports), indent=1) + "\n")
    for report in reports:
        print(final_line(report))
    return 0 if all(report.is_good for report in reports) and not gone else 1


def _interpreters(options: argparse.Namespace, scratch: Path) -> list[Interpreter]:
    interpreters = [probe(path, options.loop) for path in options.python]
    if options.tests_from is None:
        return interpreters
    return lend_tests(probe(options.tests_from, STOCK), interpreters, scratch)


def modules_gone(exceptions: Exceptions, interpreters: Sequence[Interpreter]) -> list[str]:
    """Return the modules left out that none of the interpreters has."""
    existing = {module for interpreter in interpreters for module in interpreter.modules}
    return sorted(exceptions.modules_left_out - existing)


class UnknownModuleError(ValueError):
    """A module asked for is left out or does not exist."""


def _wanted(
    options: argparse.Namespace, interpreters: Sequence[Interpreter], exceptions: Exceptions
) -> set[str]:
    existing = {module for interpreter in interpreters for module in interpreter.modules}
    judging = existing - exceptions.modules_left_out
    names = QUICK if options.quick else options.modules
    if options.evil:
        names = {pattern.partition(".")[0] for pattern in EVIL} & existing
    if not names:
        return judging
    asked = {f"test_{name.removeprefix('test_')}" for name in names}
    if unknown := asked - judging:
        raise UnknownModuleError(
            f"no module to run: {', '.join(sorted(unknown))}; it does not exist or is left out"
        )
    return asked


@contextmanager
def _scratch(logs: Path | None) -> Iterator[Path]:
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        yield Path(tempfile.mkdtemp(prefix="run-", dir=logs.resolve()))
        return
    with tempfile.TemporaryDirectory(prefix="compat-", ignore_cleanup_errors=True) as place:
        yield Path(place)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    default_python = [Path(sys.executable)]
    # Absolute, not resolved: following a venv's symlink would leave the venv.
    add("--python", type=_absolute, nargs="+", default=default_python, metavar="PATH")
    add("--loop", choices=("threadlets", "asyncio", "uvloop"), default="threadlets")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--modules", nargs="+", default=(), metavar="NAME", help="such as events")
    which.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    which.add_argument(
        "--evil", action="store_true", help="only what once broke native futures and tasks"
    )
    add(
        "--tests-from",
        type=_absolute,
        metavar="PATH",
        help="run the tests that this interpreter ships, on the others too",
    )
    add("-n", dest="workers", type=int, default=2, help="parallel workers (default: 2)")
    add("--json", type=Path, metavar="OUT", help="write everything judged to this file")
    add("--timeout", type=float, default=60, help="seconds a test may take (default: 60)")
    add("--session-timeout", type=float, default=2400, help="seconds a session may take")
    add("--logs", type=Path, metavar="DIR", help="keep pytest's output and records here")
    add("--exceptions", type=Path, default=Path(__file__).with_name("exceptions.toml"))
    return parser


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


if __name__ == "__main__":
    sys.exit(main())
