"""What `threadlets doctor` has found: its findings, as text and as JSON. Knows nothing of how they are found."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO, TypeAlias

import threadlets

Status: TypeAlias = Literal["ok", "note", "warning", "problem"]

#: From harmless to what stops a program.
STATUSES: tuple[Status, ...] = ("ok", "note", "warning", "problem")

#: The version of the JSON: a key that goes, or changes its meaning, raises it.
_JSON_VERSION = 1

_COLOURS: Mapping[str, str] = {"ok": "32", "note": "36", "warning": "33", "problem": "1;31"}
_WIDTH = max(map(len, STATUSES))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `key` names it for programs. `cause` and `remedy` say why it is not ok, and what helps; `data` has
    the values behind it; `detail` is printed as it is, the traceback of a user's module for example.
    """

    key: str
    status: Status
    fact: str
    cause: str = ""
    remedy: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Finding:
        return cls(**fields)

    def as_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "status": self.status,
            "fact": self.fact,
            "cause": self.cause,
            "remedy": self.remedy,
            "data": dict(self.data),
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Report:
    """The findings of one command, in sections with a title each."""

    sections: Mapping[str, Sequence[Finding]]

    @property
    def findings(self) -> list[Finding]:
        return [finding for findings in self.sections.values() for finding in findings]

    @property
    def status(self) -> Status:
        """The worst status of all findings."""
        return max((it.status for it in self.findings), key=STATUSES.index, default="ok")

    @property
    def exit_status(self) -> int:
        return int(self.status == "problem")

    def to_json(self) -> str:
        document = {
            "version": _JSON_VERSION,
            "threadlets": threadlets.__version__,
            "status": self.status,
            "findings": [
                {"section": title} | finding.as_json()
                for title, findings in self.sections.items()
                for finding in findings
            ],
        }
        return json.dumps(document, indent=2)

    def print(self, file: TextIO) -> None:
        """Write the report as text, in colours if a terminal shows it."""
        is_coloured = _is_coloured(file)
        for title, findings in self.sections.items():
            print(title, file=file)
            for finding in findings:
                print("\n".join(_lines(finding, is_coloured=is_coloured)), file=file)
            print(file=file)
        print(self._summary(), file=file)

    def _summary(self) -> str:
        counts = {
            it: sum(finding.status == it for finding in self.findings) for it in STATUSES[:0:-1]
        }
        parts = [f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n]
        return ", ".join(parts) or "all is well"


def _lines(finding: Finding, *, is_coloured: bool) -> list[str]:
    mark = finding.status.ljust(_WIDTH)
    if is_coloured:
        mark = f"\x1b[{_COLOURS[finding.status]}m{mark}\x1b[0m"
    margin = " " * (_WIDTH + 4)
    lines = [f"  {mark}  {finding.fact}"]
    lines += [f"{margin}cause: {finding.cause}"] if finding.cause else []
    lines += [f"{margin}remedy: {finding.remedy}"] if finding.remedy else []
    return lines + [f"{margin}| {it}" for it in finding.detail.splitlines()]


def _is_coloured(file: TextIO) -> bool:
    # https://no-color.org: any value but an empty one.
    return file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
