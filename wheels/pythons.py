"""Finds the interpreters that wheels are built for, wherever this machine has them."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
#: For intermediate files.
WORK = ROOT / "target" / "wheels"
MINORS = ("3.11", "3.12", "3.13", "3.14", "3.15")

_ABOUT = """
import json, os, sys, sysconfig
include = sysconfig.get_path("include")
print(json.dumps({
    # Not the script of a version manager, nor a virtual environment's.
    "executable": sys._base_executable,
    "version": "%d.%d" % sys.version_info[:2],
    "include": include,
    "has_headers": os.path.exists(os.path.join(include, "Python.h")),
    "is_free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
}))
"""


@dataclass(frozen=True)
class Python:
    """One interpreter."""

    minor: str
    #: The interpreter, or a command that runs it in its own file system.
    executable: Path
    #: Folders with its headers, as paths in this file system.
    headers: tuple[Path, ...]
    #: The command that enters its own file system, if it has one.
    enter: Path | None = None

    def run_in_place(self, *argv: str | Path) -> list[str]:
        """Return the command that runs a program in this interpreter's file system."""
        return [*([str(self.enter)] if self.enter else []), *map(str, argv)]

    @property
    def in_place(self) -> Path:
        """The interpreter's path in its own file system, for `run_in_place`."""
        return Path(f"/usr/bin/python{self.minor}") if self.enter else self.executable


def find(minor: str) -> Python:
    """Return an interpreter of this version with its headers; exit if there is none."""
    found = _here(minor) or _entered(minor)
    if found is None:
        raise SystemExit(
            f"CPython {minor} was not found with its headers, on the PATH, under pyenv or in .pythons: "
            "`make pythons` installs the newest ones, and with --minor others are left out"
        )
    return found


def _here(minor: str) -> Python | None:
    on_path = shutil.which(f"python{minor}")
    candidates = [on_path] if on_path else []
    candidates += sorted(Path.home().glob(f".pyenv/versions/{minor}.*/bin/python{minor}"))
    for candidate in candidates:
        about = _about(minor, [str(candidate)])
        if about is not None:
            return Python(minor, Path(about["executable"]), (Path(about["include"]),))
    return None


def _entered(minor: str) -> Python | None:
    """Return an interpreter of `make pythons`, which has a file system of its own."""
    home = ROOT / ".pythons"
    executable = home / "bin" / f"python{minor}"
    if not executable.exists() or _about(minor, [str(executable)]) is None:
        return None
    headers = home / "include"
    return Python(minor, executable, (headers / f"python{minor}", headers), home / "enter")


def _about(minor: str, command: list[str]) -> dict[str, Any] | None:
    """Return an interpreter's data if it is of this version and has its headers and a GIL."""
    try:
        done = subprocess.run([*command, "-c", _ABOUT], capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    about: dict[str, Any] = json.loads(done.stdout)
    suits = about["version"] == minor and about["has_headers"] and not about["is_free_threaded"]
    return about if suits else None
