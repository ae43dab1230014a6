"""Read suites.toml and explained.toml. Knows nothing of test runs."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

MODES = ("plain", "debug")


class CatalogueError(ValueError):
    """A file says something that cannot be meant."""


@dataclass(frozen=True)
class Suite:
    name: str
    version: str
    extras: str = ""
    requires: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    conftest: str = ""
    service: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    without: str = ""
    tag: str = ""

    @property
    def requirement(self) -> str:
        extras = f"[{self.extras}]" if self.extras else ""
        return f"{self.name}{extras}=={self.version}"


@dataclass(frozen=True)
class Explained:
    """Tests that fail on our loop and not on the stock one, for a reason we stand by.

    An intermittent one may pass as well: a race in the test decides.
    """

    suite: str
    test: str
    reason: str
    modes: tuple[str, ...] = MODES
    intermittent: bool = False

    def covers(self, suite: str, mode: str, test: str) -> bool:
        return suite == self.suite and mode in self.modes and matches(test, self.test)


def matches(test: str, pattern: str) -> bool:
    """Match a test's name with a pattern, in which only * is special: names have brackets."""
    return fnmatchcase(test, pattern.replace("[", "[[]"))


def read_suites(path: Path) -> dict[str, Suite]:
    """Return the suites by name, in the order of the file."""
    suites = {}
    for name, entry in _read(path).items():
        for key, value in entry.items():
            if isinstance(value, list):
                entry[key] = tuple(value)
        try:
            suite = Suite(name, **entry)
        except TypeError as error:
            raise CatalogueError(f"{path}: {name}: {error}") from None
        if not suite.without and not (suite.files and suite.arguments):
            raise CatalogueError(f"{path}: {name}: has neither files and arguments, nor `without`")
        if suite.files and suite.without and not suite.tag:
            raise CatalogueError(f"{path}: {name}: has files that no sdist has, and no tag")
        suites[name] = suite
    return suites


def read_explained(path: Path) -> list[Explained]:
    """Return what may differ; raise CatalogueError for an entry without a sentence as its reason."""
    found = []
    for entry in _read(path).get("explained", []):
        if "modes" in entry:
            entry["modes"] = tuple(entry["modes"])
        try:
            explained = Explained(**entry)
        except TypeError as error:
            raise CatalogueError(f"{path}: {entry}: {error}") from None
        if not explained.reason.endswith(".") or len(explained.reason.split()) < 4:
            raise CatalogueError(f"{path}: {explained.test}: the reason is no sentence")
        if unknown := set(explained.modes) - set(MODES):
            raise CatalogueError(f"{path}: {explained.test}: no such mode: {sorted(unknown)}")
        found.append(explained)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"{path}: {error}") from None
