"""An environment for each suite: its sdist's tests in a folder, what they need in a venv.

Knows nothing of loops. What is there already is kept, unless the suite's entry has changed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from suite_runs.catalogue import Suite

#: Files that pytest reads its settings from, and what they hold then.
_SETTINGS = {
    "pytest.ini": "[pytest]",
    "pyproject.toml": "[tool.pytest",
    "setup.cfg": "[tool:pytest]",
}


class SetupError(RuntimeError):
    """An environment cannot be made; the message has the last lines of what was tried."""


@dataclass(frozen=True)
class Environment:
    python: Path
    tests: Path
    """The folder that the suite's arguments are relative to."""

    @property
    def settings(self) -> Path:
        """The suite's own settings for pytest; never those of a folder above."""
        for name, section in _SETTINGS.items():
            file = self.tests / name
            if file.exists() and section in file.read_text(encoding="utf-8"):
                return file
        empty = self.tests / "pytest.ini"
        empty.write_text("[pytest]\n")
        return empty


def prepare(suite: Suite, place: Path, checkout: Path | None = None) -> Environment:
    """Return the environment of a suite, made in the folder `place` if it is not there.

    Its tests come from its sdist, or from a git repository that has the version as a tag.
    """
    environment = Environment(place / "venv" / "bin" / "python", place / "tests")
    made_for = place / "made_for.txt"
    parts = (suite.requirement, suite.requires, suite.files, suite.conftest, checkout)
    wanted = repr((*parts, sys.version))
    if made_for.exists() and made_for.read_text() == wanted:
        return environment
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    _run([sys.executable, "-m", "venv", str(place / "venv")])
    _pip(environment, "install", suite.requirement, "pytest", "pytest-timeout", *suite.requires)
    source = place / "source"
    source.mkdir()
    if checkout is not None:
        archive = source / f"{suite.name}-{suite.version}.tar"
        prefix = f"--prefix={archive.stem}/"
        _run(["git", "-C", str(checkout), "archive", prefix, f"--output={archive}", suite.tag])
    else:
        # The suite's own sdist only: what builds it may come as wheels.
        download = ["download", "--no-deps", "--no-binary", suite.name, "--dest", str(source)]
        _pip(environment, *download, f"{suite.name}=={suite.version}")
    _unpack(next(source.iterdir()), suite, environment.tests)
    if suite.conftest:
        (environment.tests / "conftest.py").write_text(suite.conftest)
    made_for.write_text(wanted)
    return environment


def _unpack(sdist: Path, suite: Suite, place: Path) -> None:
    with tarfile.open(sdist) as archive:
        top = archive.getnames()[0].partition("/")[0]
        kept = tuple(f"{top}/{file}" for file in suite.files)
        for member in archive.getmembers():
            if member.name.startswith(tuple(f"{file}/" for file in kept)) or member.name in kept:
                archive.extract(member, place, filter="data")
    unpacked = place / top
    if not unpacked.is_dir():
        raise SetupError(f"{sdist.name} has none of {', '.join(suite.files)}")
    for file in unpacked.iterdir():
        file.rename(place / file.name)
    unpacked.rmdir()


def _pip(environment: Environment, *arguments: str) -> None:
    pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, *arguments])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise SetupError(f"{' '.join(command)} ended with status {done.returncode}:\n{said}")
