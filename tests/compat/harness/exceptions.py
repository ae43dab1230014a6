"""Read exceptions.toml: what may differ from the stock loop, and why.

Knows nothing of test runs.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

_MODULE = re.compile(r"test_[a-z0-9_]+")
_VERSION = re.compile(r"3\.\d+")


class ExceptionsFileError(ValueError):
    """The exceptions file says something that cannot be meant."""


@dataclass(frozen=True)
class Explained:
    """Tests that fail on our loop for a reason we stand by.

    An `intermittent` entry may also pass: its outcome depends on a race in the
    test itself.
    """

    pattern: str
    pythons: tuple[str, ...]
    reason: str
    intermittent: bool = False

    @property
    def module(self) -> str:
        return self.pattern.partition(".")[0]

    def covers(self, test: str, python: str) -> bool:
        return python in self.pythons and fnmatchcase(test, self.pattern)


@dataclass(frozen=True)
class LeftOut:
    """A whole module that cannot judge any loop but its own."""

    module: str
    reason: str


@dataclass(frozen=True)
class Exceptions:
    explained: tuple[Explained, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def without_explained(self) -> Exceptions:
        return Exceptions(left_out=self.left_out)

    @property
    def modules_left_out(self) -> frozenset[str]:
        return frozenset(entry.module for entry in self.left_out)


def read_exceptions(path: Path) -> Exceptions:
    """Return the entries of the file; raise ExceptionsFileError naming a bad one."""
    try:
        return parse_exceptions(path.read_text(encoding="utf-8"))
    except ExceptionsFileError as error:
        raise ExceptionsFileError(f"{path}: {error}") from None


def parse_exceptions(text: str) -> Exceptions:
    """Return the entries of a file's text; raise ExceptionsFileError."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ExceptionsFileError(str(error)) from None
    if unknown := tables.keys() - {"left_out", "explained"}:
        raise ExceptionsFileError(f"unknown tables: {', '.join(sorted(unknown))}")

    left_out = tuple(_left_out(entry) for entry in tables.get("left_out", []))
    explained = tuple(_explained(entry) for entry in tables.get("explained", []))
    modules_left_out = {entry.module for entry in left_out}
    patterns: set[tuple[str, str]] = set()
    for entry in explained:
        if entry.module in modules_left_out:
            raise ExceptionsFileError(f"{entry.pattern}: its module is left out")
        for python in entry.pythons:
            if (entry.pattern, python) in patterns:
                raise ExceptionsFileError(f"{entry.pattern}: listed twice for {python}")
            patterns.add((entry.pattern, python))
    return Exceptions(explained, left_out)


def _left_out(entry: dict[str, Any]) -> LeftOut:
    _check_keys(entry, required={"module", "reason"}, optional=set())
    return LeftOut(_module(entry["module"]), _reason(entry))


def _explained(entry: dict[str, Any]) -> Explained:
    _check_keys(entry, required={"test", "python", "reason"}, optional={"intermittent"})
    pattern = entry["test"]
    _module(pattern.partition(".")[0])
    if pattern.count(".") < 2:
        raise ExceptionsFileError(f"{pattern}: expected module.Class.test")
    pythons = entry["python"]
    if not isinstance(pythons, list) or not pythons:
        raise ExceptionsFileError(f"{pattern}: python is a list of versions such as '3.12'")
    for python in pythons:
        if not isinstance(python, str) or not _VERSION.fullmatch(python):
            raise ExceptionsFileError(f"{pattern}: {python!r} is no version such as '3.12'")
    return Explained(pattern, tuple(pythons), _reason(entry), entry.get("intermittent", False))


def _check_keys(entry: dict[str, Any], *, required: set[str], optional: set[str]) -> None:
    name = entry.get("test") or entry.get("module") or entry
    if missing := required - entry.keys():
        raise ExceptionsFileError(f"{name}: lacks {', '.join(sorted(missing))}")
    if unknown := entry.keys() - required - optional:
        raise ExceptionsFileError(f"{name}: unknown keys {', '.join(sorted(unknown))}")


def _module(name: str) -> str:
    # A wildcard here would hide which modules an entry reaches.
    if not _MODULE.fullmatch(name):
        raise ExceptionsFileError(f"{name!r} is no module of test_asyncio")
    return name


def _reason(entry: dict[str, Any]) -> str:
    reason = " ".join(str(entry["reason"]).split())
    if not reason.endswith(".") or len(reason.split()) < 4:
        name = entry.get("test") or entry.get("module")
        raise ExceptionsFileError(f"{name}: the reason is not a sentence: {reason!r}")
    return reason
