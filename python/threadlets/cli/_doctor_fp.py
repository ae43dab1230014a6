"""``threadlets doctor fp``: finds packages that change the floating-point state.

Packages are imported in processes of their own; the findings come back as JSON in a file, because a
package may print.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

_TIMEOUT_S = 120.0


def check_floating_point(
    packages: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PACKAGE]...",
            help="Names as in an import statement; without any, all installed packages.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Import packages, and name those that change the floating-point state, and the library at fault.

    A library that was linked with -ffast-math flushes denormals to zero in the thread that loads it.
    The exit status is 1 if a package does so or cannot be imported, otherwise 0.
    """
    outcomes = [_print_outcome(name, _probe("import", name)) for name in packages or _installed()]
    raise typer.Exit(int(not all(outcomes)))


def _installed() -> list[str]:
    found = metadata.packages_distributions()
    return sorted(name for name in found if name.isidentifier() and not name.startswith("_"))


def _print_outcome(name: str, found: dict[str, Any]) -> bool:
    """Print the findings on a package; return whether there are none."""
    violations = found.get("violations", [])
    for violation in violations:
        typer.echo(f"{name}: changes the floating-point state: {violation['changes']}")
        typer.echo(f"  at the import of {violation['module']} ({violation['file']})")
        for library in _name_libraries(violation["libraries"]):
            typer.echo(f"  by the shared library {library}")
    if "error" in found:
        typer.echo(f"{name}: cannot be imported: {found['error']}")
    elif not violations:
        typer.echo(f"{name}: leaves the floating-point state alone")
    return not violations and "error" not in found


def _name_libraries(libraries: list[str]) -> list[str]:
    """Return those libraries that change the state themselves, not by libraries that they load."""
    loads = {library: _probe("load", library) for library in libraries}
    changing = {library for library, found in loads.items() if found.get("changes")}
    return [
        library
        for library in sorted(changing)
        if not changing & (set(loads[library]["libraries"]) - {library})
    ]


def _probe(what: str, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        argv = [sys.executable, "-m", "threadlets.cli._doctor_fp_probe", what, name, str(answer)]
        try:
            done = subprocess.run(argv, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"its import takes longer than {_TIMEOUT_S:.0f} s"}
        if not answer.exists():
            return {"error": f"the process ended with status {done.returncode}"}
        found: dict[str, Any] = json.loads(answer.read_text())
        return found
