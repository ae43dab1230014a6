"""Write stored results into docs/compatibility.md, between its markers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite_runs.catalogue import MODES, Suite
from suite_runs.verdict import Verdict

BEGIN = "<!-- results: `make suites` and `tests/suites/run.py --page` write this -->"
END = "<!-- end of results -->"


def write_page(path: Path, suites: Mapping[str, Suite], results: Mapping[str, Any]) -> None:
    """Replace what is between the markers of the page."""
    text = path.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{render(suites, results)}\n{END}{after}", encoding="utf-8")


def render(suites: Mapping[str, Suite], results: Mapping[str, Any]) -> str:
    """Return a table of all suites, and under it each difference with its reason."""
    lines = [
        "| suite | mode | pass on stock | pass on ours | fail on both | differ | measured |",
        "|---|---|---|---|---|---|---|",
    ]
    reasons: list[str] = []
    parts: dict[str, list[str]] = {}
    for suite in suites.values():
        stored = results.get(suite.name, {})
        if not stored:
            why = suite.without or "Not run yet."
            lines.append(f"| {suite.name} {suite.version} | | | | | | {why} |")
        verdicts = {}
        for mode in MODES:
            if mode not in stored:
                continue
            facts = dict(stored[mode])
            when = f"{facts.pop('date')}, CPython {facts.pop('python')}"
            name = f"{suite.name} {facts.pop('version')}"
            if part := facts.pop("part", []):
                name += f", {len(part)} of its files"
                parts[suite.name] = part
            verdict = Verdict.from_json(facts)
            lines.append(
                f"| {name} | {mode} | {verdict.n_stock_passed} | {verdict.n_passed} "
                f"| {verdict.n_failed_on_both} | {len(verdict.differences)} | {when} |"
            )
            verdicts[mode] = verdict
        reasons += _reasons(suite.name, verdicts)
    lines.append("")
    for name, part in parts.items():
        reasons.append(f"- **{name}**: of its files these: {', '.join(part)}.")
    for suite in suites.values():
        for pattern, why in suite.left_out.items():
            reasons.append(f"- **{suite.name}**, not run: `{pattern}`. {why}")
    return "\n".join(lines + reasons) + "\n"


def _reasons(suite: str, verdicts: Mapping[str, Verdict]) -> list[str]:
    found: dict[str, dict[str, list[str]]] = {}
    for mode, verdict in verdicts.items():
        for it in verdict.differences:
            modes = found.setdefault(it.reason or "Not explained.", {}).setdefault(it.test, [])
            modes.append(mode)
    lines = []
    for reason, tests in found.items():
        lines.append(f"- **{suite}**: {reason}")
        lines += [f"  - `{test}` ({', '.join(modes)})" for test, modes in tests.items()]
    return lines
