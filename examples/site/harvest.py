"""Read the standard library's own source: every public module, its functions, classes and methods.

Source files are parsed and never imported, since importing some of them opens windows or prints.
Compiled modules have no source; they are imported, which is harmless, and inspected.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import ExtensionFileLoader, FileFinder, SourceFileLoader
from types import ModuleType

_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "pydoc_data"}


@dataclass(frozen=True)
class Member:
    """A function, a class or a method of a module."""

    name: str
    kind: str
    signature: str
    summary: str


@dataclass
class Module:
    """One module; `n_lines` is 0 for a compiled one."""

    name: str
    origin: str
    summary: str
    n_lines: int = 0
    members: list[Member] = field(default_factory=list)


def standard_library() -> Iterator[Module]:
    """Yield every public module of the running interpreter's standard library."""
    for name in sorted(sys.builtin_module_names):
        if _is_public(name):
            yield _inspect(importlib.import_module(name), "built in")
    for info in _walk(None, ""):
        if isinstance(info.module_finder, FileFinder):
            module = _read(info.module_finder, info.name)
            if module is not None:
                yield module


def _walk(folders: list[str] | None, prefix: str) -> Iterator[pkgutil.ModuleInfo]:
    for info in pkgutil.iter_modules(folders, prefix):
        top_level = info.name.partition(".")[0]
        if top_level not in sys.stdlib_module_names or not _is_public(info.name):
            continue
        yield info
        if info.ispkg and isinstance(info.module_finder, FileFinder):
            last = info.name.rpartition(".")[2]
            yield from _walk([f"{info.module_finder.path}/{last}"], f"{info.name}.")


def _is_public(name: str) -> bool:
    return not any(part.startswith("_") or part in _LEFT_OUT for part in name.split("."))


def _read(finder: FileFinder, name: str) -> Module | None:
    spec = finder.find_spec(name)
    if spec is None:
        return None
    if isinstance(spec.loader, SourceFileLoader):
        source = spec.loader.get_source(name)
        return None if source is None else _parse(name, source)
    if isinstance(spec.loader, ExtensionFileLoader):
        try:
            with warnings.catch_warnings():
                # A deprecated module is in the catalogue until it is removed from the library.
                warnings.simplefilter("ignore", DeprecationWarning)
                return _inspect(importlib.import_module(name), "compiled")
        except ImportError:
            # Built against a library that this machine lacks: tkinter or dbm, for example.
            return None
    return None


def _parse(name: str, source: str) -> Module:
    tree = ast.parse(source)
    module = Module(name, "source", _first_line(ast.get_docstring(tree)), source.count("\n"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            _add_node(module, node, "")
    return module


def _add_node(
    module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, owner: str
) -> None:
    if node.name.startswith("_"):
        return
    summary = _first_line(ast.get_docstring(node))
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        module.members.append(Member(node.name, "class", f"({bases})", summary))
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                _add_node(module, inner, f"{node.name}.")
        return
    kind = "method" if owner else "function"
    signature = f"({ast.unparse(node.args)})"
    module.members.append(Member(owner + node.name, kind, signature, summary))


def _inspect(imported: ModuleType, origin: str) -> Module:
    module = Module(imported.__name__, origin, _first_line(inspect.getdoc(imported)))
    for name, value in inspect.getmembers(imported):
        if name.startswith("_"):
            continue
        if inspect.isclass(value):
            kind = "class"
        elif inspect.isroutine(value):
            kind = "function"
        else:
            continue
        summary = _first_line(inspect.getdoc(value))
        module.members.append(Member(name, kind, _signature(value), summary))
    return module


def _signature(value: object) -> str:
    try:
        return str(inspect.signature(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        # Many compiled functions have no signature.
        return "(...)"


def _first_line(docstring: str | None) -> str:
    text = (docstring or "").strip()
    return text.splitlines()[0].strip() if text else ""
