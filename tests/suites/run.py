"""Run other projects' test suites on the stock loop and on ours, and name what differs.

    python tests/suites/run.py [NAME ...] [--modes plain debug] [--page]

Takes the sdists that suites.toml names from PyPI and sets up an environment for each, in
target/suites. Results go to results.json, a suite at a time; `--page` writes them into
docs/compatibility.md and runs nothing.

Exit status 0: all that passes on the stock loop passes on ours, or explained.toml says why not.
1: something unexplained, or an explanation that does not hold any more. 2: a suite could not run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent / "compat")]

from harness.loops import STOCK  # noqa: E402
from harness.session import Limits  # noqa: E402
from suite_runs.catalogue import (  # noqa: E402
    MODES,
    CatalogueError,
    Explained,
    Suite,
    read_explained,
    read_suites,
)
from suite_runs.environment import Environment, SetupError, prepare  # noqa: E402
from suite_runs.page import write_page  # noqa: E402
from suite_runs.services import service  # noqa: E402
from suite_runs.session import Session, recorded, run  # noqa: E402
from suite_runs.verdict import Verdict, compare, differing  # noqa: E402

RESULTS = HERE / "results.json"
PAGE = ROOT / "docs" / "compatibility.md"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        suites, explained = read_suites(options.suites), read_explained(options.explained)
    except CatalogueError as error:
        print(error, file=sys.stderr)
        return 2
    options.checkout = dict(options.checkout)
    if options.page:
        write_page(PAGE, suites, json.loads(options.results.read_text(encoding="utf-8")))
        return 0
    if unknown := set(options.names) - suites.keys():
        print(
            f"no such suite: {', '.join(sorted(unknown))}; suites.toml lists them", file=sys.stderr
        )
        return 2
    if options.part and len(options.names) != 1:
        print("--part is for one suite", file=sys.stderr)
        return 2
    status = 0
    for suite in (suites[name] for name in options.names or suites):
        if options.part:
            others = [it for it in suite.arguments if it not in suite.files]
            suite = replace(suite, arguments=(*options.part, *others))
        if not suite.without or suite.name in options.checkout:
            status = max(status, _judge(suite, explained, options))
    return status


def _judge(suite: Suite, explained: list[Explained], options: argparse.Namespace) -> int:
    place = options.folder / suite.name
    try:
        environment = prepare(suite, place, options.checkout.get(suite.name))
    except SetupError as error:
        print(f"{suite.name}: {error}", file=sys.stderr)
        return 2
    limits = Limits(1, options.timeout, options.session_timeout)
    is_good = True
    for mode in options.modes:
        with service(suite.service, place / "service") as server:
            verdict = _compare_loops(
                suite, environment, mode, limits, place, explained, server, options.reuse_stock
            )
        _store(options.results, suite, mode, verdict, options.part)
        _show(suite, mode, verdict)
        is_good = is_good and verdict.is_good
    return 0 if is_good else 1


def _compare_loops(
    suite: Suite,
    environment: Environment,
    mode: str,
    limits: Limits,
    place: Path,
    explained: list[Explained],
    server: dict[str, str],
    reuses_stock: bool,
) -> Verdict:
    def session(loop: str, only: Sequence[str] | None = None) -> Session:
        folder = place / "runs" / f"{mode}-{loop}{'-again' if only else ''}"
        return run(suite, environment, loop, mode, limits, folder, only, server)

    stock = recorded(place / "runs" / f"{mode}-{STOCK}") if reuses_stock else None
    stock, ours = stock or session(STOCK), session("threadlets")
    # A test that fails once, by a race, is no difference, but is named.
    tests = differing(stock, ours)
    again = session("threadlets", tests).outcomes if tests else {}
    return compare(suite.name, mode, stock, ours, again, explained)


def _store(path: Path, suite: Suite, mode: str, verdict: Verdict, part: Sequence[str] = ()) -> None:
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    entry = results.setdefault(suite.name, {})
    entry[mode] = verdict.as_json() | {
        "version": suite.version,
        "part": list(part),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _show(suite: Suite, mode: str, verdict: Verdict) -> None:
    print(
        f"{suite.name} {suite.version} {mode}: stock {verdict.n_stock_passed} passed, "
        f"ours {verdict.n_passed}; {verdict.n_failed_on_both} fail on both; "
        f"{len(verdict.differences)} differ, {len(verdict.unexplained)} unexplained",
        flush=True,
    )
    for difference in verdict.unexplained:
        print(f"  unexplained: {difference.test}\n    {difference.error}")
    for word in ("unsteady", "stale", "troubles"):
        for line in getattr(verdict, word):
            print(f"  {word}: {line}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="suites to run (default: all)")
    add("--modes", nargs="+", choices=MODES, default=MODES)
    add("--page", action="store_true", help="write the stored results into the page")
    add("--part", nargs="+", default=(), metavar="FILE", help="run these files of one suite only")
    add("--reuse-stock", action="store_true", help="do not run the stock loop again")
    add("--timeout", type=float, default=30, help="seconds a test may take (default: 30)")
    add("--session-timeout", type=float, default=1200, help="seconds a session may take")
    add("--folder", type=Path, default=ROOT / "target" / "suites", help="where environments are")
    add("--suites", type=Path, default=HERE / "suites.toml")
    add("--explained", type=Path, default=HERE / "explained.toml")
    add("--results", type=Path, default=RESULTS)
    add(
        "--checkout",
        type=_name_and_folder,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a git repository that NAME's tests come from, where its sdist has none",
    )
    return parser


def _name_and_folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    return name, Path(folder)


if __name__ == "__main__":
    sys.exit(main())
