"""Import a package, or load a library, and record how it changes the floating-point state.

``python -m threadlets.cli._doctor_fp_probe import|load NAME FILE`` writes what it found to the file.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.abc
import importlib.machinery
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from threadlets import fp


class _Watch(importlib.abc.MetaPathFinder):
    """Finder before all others, which has the modules that they find loaded by `_Loader`."""

    def __init__(self) -> None:
        self.violations: list[dict[str, Any]] = []

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module by the other finders."""
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: importlib.machinery.ModuleSpec | None = find and find(fullname, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(self, spec)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """Loads one module by its own loader, and compares the floating-point state."""

    def __init__(self, watch: _Watch, spec: importlib.machinery.ModuleSpec) -> None:
        self._watch = watch
        self._loader: Any = spec.loader
        self._file = spec.origin or "?"
        self._name = spec.name
        self._before: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Create the module; for an extension module this loads its library."""
        self._before = _libraries()
        with _compare_state(self):
            module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module; the modules that it imports are compared on their own."""
        # A module may use methods of its loader that only the real one has.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with _compare_state(self):
            self._loader.exec_module(module)

    def note(self, changes: str) -> None:
        """Record that the module has changed the state."""
        libraries = sorted(_libraries() - self._before)
        self._watch.violations.append(
            {"module": self._name, "file": self._file, "changes": changes, "libraries": libraries}
        )


class _compare_state:  # noqa: N801 - it reads as what it does
    """A block that begins in the default state; a change is recorded, and undone at the end."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._block = fp.environment()

    def __enter__(self) -> None:
        self._block.__enter__()

    def __exit__(self, *_exception: object) -> None:
        changes = fp.state().changes
        self._block.__exit__()
        if changes:
            self._loader.note(changes)


def _libraries() -> set[str]:
    """List the shared libraries of this process."""
    paths = (
        line.split(maxsplit=5)[5:] for line in Path("/proc/self/maps").read_text().splitlines()
    )
    return {path[0] for path in paths if path and ".so" in path[0]}


def _import(name: str) -> dict[str, Any]:
    watch = _Watch()
    sys.meta_path.insert(0, watch)
    found: dict[str, Any] = {"violations": watch.violations}
    try:
        importlib.import_module(name)
    except BaseException as error:
        found["error"] = f"{type(error).__name__}: {error}"
    return found


def _load(path: str) -> dict[str, Any]:
    before = _libraries()
    with fp.environment():
        try:
            ctypes.CDLL(path)
        except OSError as error:
            return {"error": str(error)}
        changes = fp.state().changes
    return {"changes": changes, "libraries": sorted(_libraries() - before)}


if __name__ == "__main__":
    _what, _name, _answer = sys.argv[1:]
    # Look in the working directory first, as `python -c "import …"` does.
    sys.path.insert(0, "")
    Path(_answer).write_text(json.dumps(_import(_name) if _what == "import" else _load(_name)))
