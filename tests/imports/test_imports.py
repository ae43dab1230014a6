"""What `import threadlets` loads at once, and what only on first use; where public names are shown."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
import typing
from typing import Any

import pytest
import threadlets

#: Modules that a loop does not need, and that are slow to load or take much memory.
_NOT_NEEDED = {
    "_bz2",
    "_lzma",
    "bz2",
    "ctypes",
    "datetime",
    "decimal",
    "glob",
    "hashlib",
    "importlib.metadata",
    "json",
    "lzma",
    "multiprocessing",
    "pathlib",
    "pickle",
    "random",
    "rich",
    "secrets",
    "shutil",
    "sqlite3",
    "tempfile",
    "threadlets.atoms",
    "threadlets.cli",
    "threadlets._files",
    "threadlets.frameworks",
    "threadlets.http",
    "threadlets._scopes.scope",
    "threadlets._syslets",
    "threadlets.testing",
    "typer",
    "urllib",
    "uvicorn",
    "zlib",
}


def _run(code: str) -> str:
    argv = [sys.executable, "-I", "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout


def _loaded(code: str) -> set[str]:
    """Return the modules that the code loads in addition to asyncio's."""
    printed = _run(
        "import asyncio, sys; before = set(sys.modules)\n"
        f"{code}\nprint(*sorted(sys.modules.keys() - before))"
    )
    return set(printed.split())


def test_import_loads_the_loop_alone() -> None:
    """A loop is imported without files, syslets, databases or compressors."""
    loaded = _loaded("import threadlets")
    assert {"threadlets._aio.loop", "threadlets._core"} <= loaded
    assert set() == loaded & _NOT_NEEDED


def test_running_a_coroutine_loads_no_more() -> None:
    """A program that only uses the loop and calls functions loads nothing more while it runs."""
    code = """
import threadlets
async def main():
    await threadlets.call(int)
    await threadlets.sleep(0)
threadlets.run(main())
"""
    assert set() == _loaded(code) & _NOT_NEEDED


@pytest.mark.parametrize("name", threadlets.__all__)
def test_each_public_name_is_there_when_asked_for(name: str) -> None:
    """Every public name is there after a fresh import, as the same object each time."""
    printed = _run(
        f"import threadlets; first = threadlets.{name}; from threadlets import {name}\n"
        f"print(first is {name}, {name!r} in dir(threadlets), {name!r} in vars(threadlets))"
    )
    assert "True True True" == printed.strip()


@pytest.mark.parametrize("name", ["atoms", "exceptions", "fp"])
def test_subpackages_are_attributes(name: str) -> None:
    """A subpackage is an attribute without an import of its own."""
    assert (
        f"threadlets.{name}"
        == _run(f"import threadlets; print(threadlets.{name}.__name__)").strip()
    )


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    """Asking for it raises Python's own message."""
    with pytest.raises(AttributeError, match="module 'threadlets' has no attribute 'nothing'"):
        threadlets.nothing  # noqa: B018 - the access itself raises


def test_an_interpreter_without_a_gil_is_refused() -> None:
    """With -X gil=0 nothing would guard a loop's state; the error says what to leave out."""
    argv = [
        sys.executable,
        "-c",
        "import sys; sys._is_gil_enabled = lambda: False; import threadlets",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert 1 == done.returncode
    assert done.stderr.splitlines()[-1].startswith("ImportError: threadlets was imported where")
    assert "-X gil=0" in done.stderr


_PUBLIC = [
    pytest.param(value, id=f"{module}.{name}")
    for module in (
        "threadlets",
        "threadlets.atoms",
        "threadlets.exceptions",
        "threadlets.fp",
        "threadlets.frameworks",
        "threadlets.http",
        "threadlets.testing",
    )
    for name in importlib.import_module(module).__all__
    if callable(value := getattr(importlib.import_module(module), name))
]


@pytest.mark.parametrize("public", _PUBLIC)
def test_public_names_are_shown_where_users_find_them(public: Any) -> None:
    """In reprs, pickles and documentation no private module is named, but for the native one."""
    module = public.__module__
    assert "threadlets._core" == module or "._" not in module
    assert public is pickle.loads(pickle.dumps(public))


@pytest.mark.parametrize(
    "public",
    [
        threadlets.BlockedFunction,
        threadlets.Completion,
        threadlets.Engine,
        threadlets.Ledger,
        threadlets.fp.State,
        threadlets.fp.Violation,
    ],
)
def test_annotations_of_public_records_can_be_looked_up(public: type) -> None:
    """Their types are found, although the module that they are shown in does not import them."""
    assert list(public.__annotations__) == list(typing.get_type_hints(public))
