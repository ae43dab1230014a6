"""`threadlets doctor fp` finds the library that changes the floating-point state."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import RunCommand

_LINKED_FAST = ("-ffast-math", "-mdaz-ftz")


def _build(folder: Path, name: str, source: str, *flags: str) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("there is no compiler here")
    library = folder / f"lib{name}.so"
    (folder / f"{name}.c").write_text(source)
    argv = ["gcc", "-shared", "-fPIC", "-o", str(library), str(folder / f"{name}.c"), *flags]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode and "-mdaz-ftz" in flags:
        # A compiler that knows no such flag needs none: it always links the start-up code.
        return _build(folder, name, source, *(it for it in flags if it != "-mdaz-ftz"))
    assert 0 == done.returncode, done.stderr
    return library


@pytest.fixture
def fast_package(tmp_path: Path) -> tuple[str, Path]:
    """Make a package that loads a harmless library, which is linked to one built with -ffast-math."""
    fast = _build(tmp_path, "quick", "double twice(double x) { return 2 * x; }", *_LINKED_FAST)
    _build(
        tmp_path,
        "innocent",
        "double twice(double); double quadruple(double x) { return twice(twice(x)); }",
        f"-L{tmp_path}",
        "-lquick",
        f"-Wl,-rpath,{tmp_path}",
    )
    package = tmp_path / "speedy"
    package.mkdir()
    (package / "__init__.py").write_text("import json\nfrom speedy import native\n")
    (package / "native.py").write_text(
        f"import ctypes\nlibrary = ctypes.CDLL({str(tmp_path / 'libinnocent.so')!r})\n"
    )
    return "speedy", fast


def test_doctor_names_module_and_library(
    command: RunCommand, fast_package: tuple[str, Path]
) -> None:
    """The report names the loading module and the library itself, not the one that depends on it."""
    name, library = fast_package
    done = command("doctor", "fp", name, "json")
    assert 1 == done.returncode, done.stderr
    lines = done.stdout.splitlines()
    assert f"{name}: changes the floating-point state: flush-to-zero, denormals-are-zero" in lines
    assert [line for line in lines if "at the import of speedy.native (" in line]
    assert [f"  by the shared library {library}"] == [it for it in lines if "by the shared" in it]
    assert "json: leaves the floating-point state alone" in lines


def test_doctor_is_content_with_those_that_leave_it_alone(command: RunCommand) -> None:
    """An extension module of the standard library and one of ours leave the state alone."""
    done = command("doctor", "fp", "sqlite3", "threadlets")
    assert (0, "") == (done.returncode, done.stderr)
    assert 2 == done.stdout.count("leaves the floating-point state alone")


def test_doctor_says_what_cannot_be_imported(command: RunCommand) -> None:
    """A module that cannot be imported is named with its error, and the others are still checked."""
    done = command("doctor", "fp", "no_such_package", "json")
    assert 1 == done.returncode
    assert "no_such_package: cannot be imported: ModuleNotFoundError" in done.stdout
    assert "json: leaves" in done.stdout
