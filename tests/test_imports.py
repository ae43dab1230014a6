"""Which modules import which: no circles, in Python as in Rust, but small ones within a folder of Rust."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent

#: The modules that a module imports, by name.
Graph = Mapping[str, Set[str]]


def circles(graph: Graph) -> list[list[str]]:
    """Return the circles of a graph: its strongly connected parts of more than one node, sorted.

    A node that leads to itself alone counts, too. This is Tarjan's algorithm, without recursion.
    """
    found: list[list[str]] = []
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    for root in graph:
        if root in number:
            continue
        path: list[tuple[str, Iterator[str]]] = []
        enter: str | None = root
        while enter is not None or path:
            if enter is not None:
                number[enter] = lowest[enter] = len(number)
                stack.append(enter)
                on_stack.add(enter)
                path.append((enter, iter(sorted(graph.get(enter, ())))))
                enter = None
            node, successors = path[-1]
            for successor in successors:
                if successor not in number:
                    enter = successor
                    break
                if successor in on_stack:
                    lowest[node] = min(lowest[node], number[successor])
            if enter is not None:
                continue
            path.pop()
            if path:
                lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[node])
            if lowest[node] == number[node]:
                part = stack[stack.index(node) :]
                del stack[stack.index(node) :]
                on_stack.difference_update(part)
                if len(part) > 1 or node in graph.get(node, ()):
                    found.append(sorted(part))
    return sorted(found)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({}, []),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, []),
        ({"a": {"a"}}, [["a"]]),
        ({"a": {"b"}, "b": {"a"}}, [["a", "b"]]),
        (
            {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}},
            [["a", "b", "c"], ["d", "e"]],
        ),
        ({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"b"}}, [["a", "b", "c", "d"]]),
        ({"a": {"elsewhere"}}, []),
    ],
)
def test_circles_are_found(graph: Graph, expected: list[list[str]]) -> None:
    """Each circle is found once, as a whole; a node that two paths lead to is none."""
    assert expected == circles(graph)


def test_a_long_chain_is_no_problem() -> None:
    """The search does not recurse."""
    n_nodes = 5000
    graph = {str(number): {str((number + 1) % n_nodes)} for number in range(n_nodes)}
    assert [n_nodes] == [len(circle) for circle in circles(graph)]


# -- Python ----------------------------------------------------------------------------------------


def _python_modules(folder: Path) -> dict[str, str]:
    """Return the source of each module below `folder`, by the module's name."""
    sources = {}
    for path in [*folder.rglob("*.py"), *folder.rglob("*.pyi")]:
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = path.read_text()
    return sources


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements that run, those of functions included: not those for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.orelse:
                yield statement
                yield from _statements(statement)
        else:
            yield child
            yield from _statements(child)


def _packages_run(module: str, importer: str) -> Iterator[str]:
    """Yield the packages that importing a module runs, but for those that the importer lies in."""
    while (module := module.rpartition(".")[0]) != "":
        if not f"{importer}.".startswith(f"{module}."):
            yield module


def _python_imports(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the modules that each of the modules imports, at once or when a function is called.

    A package counts that has to run first; those which the importing module lies in run in any case.
    """
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        graph[module] = set()
        for statement in _statements(ast.parse(source)):
            names: list[str] = []
            if isinstance(statement, ast.Import):
                names = [alias.name for alias in statement.names]
            elif isinstance(statement, ast.ImportFrom):
                assert not statement.level, f"{module} has a relative import, which nothing counts"
                package = statement.module or ""
                members = {f"{package}.{alias.name}" for alias in statement.names}
                # Where a name is a module, it is that module which is meant, not the package's face.
                names = sorted(members & sources.keys())
                if len(names) < len(members):
                    names.append(package)
            for name in names:
                graph[module] |= {name, *_packages_run(name, module)}
        graph[module] &= sources.keys()
    return graph


def _without_inner_names(graph: Graph) -> dict[str, set[str]]:
    """Return the graph of what lies directly in the package: modules, and packages as a whole."""
    outer: dict[str, set[str]] = {}
    for module, imported in graph.items():
        name = ".".join(module.split(".")[:2])
        found = {".".join(other.split(".")[:2]) for other in imported}
        outer.setdefault(name, set()).update(found - {name})
    return outer


_SOURCES = _python_modules(_ROOT / "python")


def test_python_modules_import_in_no_circle() -> None:
    """A module can be understood, and imported, without those that import it."""
    graph = _python_imports(_SOURCES)
    assert "threadlets._syslets.atom" in graph["threadlets._syslets.symbols"]
    assert [] == circles(graph)


def test_python_packages_import_in_no_circle() -> None:
    """Nor does a package need one that imports it."""
    graph = _without_inner_names(_python_imports(_SOURCES))
    assert "threadlets._workers" in graph["threadlets._aio"]
    assert [] == circles(graph)


def test_python_modules_inside_do_not_import_the_public_face() -> None:
    """`threadlets` imports them; only what is built upon its public names imports it."""
    users = ("threadlets.__main__", "threadlets.cli", "threadlets.testing")
    found = [
        module
        for module, imported in _python_imports(_SOURCES).items()
        if "threadlets" in imported and not module.startswith(users)
    ]
    assert [] == found


@pytest.mark.parametrize(
    ("module", "added"),
    [
        ("threadlets._syslets.atom", "from threadlets._syslets.symbols import Variable"),
        ("threadlets._syslets.atom", "def f():\n    import threadlets._syslets.symbols"),
        ("threadlets._scopes.outstanding", "from threadlets._aio import loop"),
        ("threadlets._calls", "import threadlets"),
        ("threadlets.exceptions", "import threadlets.exceptions"),
    ],
)
def test_a_circle_of_python_modules_is_noticed(module: str, added: str) -> None:
    """One import too many makes a circle."""
    sources = _SOURCES | {module: f"{_SOURCES[module]}\n{added}\n"}
    assert module in {name for circle in circles(_python_imports(sources)) for name in circle}


def test_an_import_for_type_checkers_is_no_import() -> None:
    """It never runs."""
    added = "if TYPE_CHECKING:\n    from threadlets._aio import loop"
    module = "threadlets._calls"
    sources = _SOURCES | {module: f"{_SOURCES[module]}\n{added}\n"}
    assert [] == circles(_python_imports(sources))


def test_no_python_name_hides_a_module() -> None:
    """A function or class has another name than the modules of its package."""
    found = [
        f"{module}.{node.name}"
        for module, source in _SOURCES.items()
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        for package in {module, module.rpartition(".")[0]}
        if f"{package}.{node.name}" in _SOURCES
    ]
    assert [] == found


#: What users type: these, and `threadlets` itself.
_PUBLIC = {
    "threadlets.__main__",
    "threadlets.atoms",
    "threadlets.cli",
    "threadlets.exceptions",
    "threadlets.fp",
    "threadlets.frameworks",
    "threadlets.http",
    "threadlets.testing",
    "threadlets.testing.plugin",
}


def test_python_modules_are_private_but_for_those_that_users_type() -> None:
    """A private module, or a package that it lies in, begins with an underscore."""
    public = {name for name in _SOURCES if "._" not in name or name.endswith(".__main__")}
    assert {"threadlets", *_PUBLIC} == public


# -- Rust ------------------------------------------------------------------------------------------

#: The folders of the bindings: each may import those that come earlier, and none that come later.
_BINDINGS = (
    "py",
    "dispatcher",
    "contract",
    "task",
    "scope",
    "callbacks",
    "net",
    "syslet",
    "workers",
    "calls",
    "http",
    "tick",
    "api",
)
#: How many files may import each other in a circle.
_CIRCLE_MAX = 5


def _rust_modules(folder: Path) -> dict[str, str]:
    """Return the source of each module below `folder`, without its tests, by the module's path."""
    sources = {}
    for path in folder.rglob("*.rs"):
        parts = path.relative_to(folder).with_suffix("").parts
        name = "::".join(parts[:-1] if parts[-1] in ("mod", "lib") else parts)
        sources[name] = re.split(r"#\[cfg\((?:all\()?test\b", path.read_text())[0]
    return sources


def _use_paths(tree: str) -> Iterator[str]:
    """Yield the paths of a use tree: `a::{b, c::d}` names `a::b` and `a::c::d`."""
    prefix, brace, inner = tree.partition("{")
    if not brace:
        yield tree.split(" as ")[0].strip()
        return
    depth, item = 0, ""
    for char in inner[: inner.rindex("}")] + ",":
        if char == "," and depth == 0:
            if item.strip():
                for path in _use_paths(item.strip()):
                    yield prefix + path
            item = ""
            continue
        depth += {"{": 1, "}": -1}.get(char, 0)
        item += char


def _rust_imports(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the modules that each of the modules names, in `use` items and elsewhere.

    Paths begin with `crate`, `super` or `self`: the code names its own modules by no other.
    """
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        code = re.sub(r"//[^\n]*", "", source)
        is_folder = any(name.startswith(f"{module}::") for name in sources)
        here = module.split("::") if module else []
        trees = re.findall(r"\buse\s+((?:crate|super|self)::[^;]+);", code)
        paths = [path for tree in trees for path in _use_paths(re.sub(r"\s+", " ", tree))]
        paths += re.findall(r"\b(?:crate|super|self)(?:::\w+)+", code)
        graph[module] = set()
        for path in paths:
            start, *rest = path.split("::")
            names = [] if start == "crate" else here[:-1] if start == "super" else here[:]
            for part in rest:
                if part == "super":
                    names = names[:-1]
                elif part != "self":
                    names.append(part)
            # Inside of a file's own inline modules, `super` is the file itself.
            while names and "::".join(names) not in sources:
                names.pop()
            found = "::".join(names)
            if found and found != module and not (is_folder and found.startswith(f"{module}::")):
                graph[module].add(found)
    return graph


def _folders(graph: Graph) -> dict[str, set[str]]:
    """Return the graph of folders, and of files that lie in none."""
    outer: dict[str, set[str]] = {}
    for module, imported in graph.items():
        if module:
            name = module.split("::")[0]
            outer.setdefault(name, set()).update({it.split("::")[0] for it in imported} - {name})
    return outer


_CRATES = {name: _rust_modules(_ROOT / "crates" / name / "src") for name in ("core", "bindings")}


@pytest.mark.parametrize("crate", _CRATES)
def test_circles_of_rust_files_stay_small_and_within_a_folder(crate: str) -> None:
    """What imports each other lies together, and can be read together."""
    found = circles(_rust_imports(_CRATES[crate]))
    assert [] == [it for it in found if len(it) > _CIRCLE_MAX]
    assert [] == [it for it in found if len({name.split("::")[0] for name in it}) > 1]


def test_folders_of_the_core_import_in_no_circle() -> None:
    """A folder can be understood without those that use it."""
    assert [] == circles(_folders(_rust_imports(_CRATES["core"])))


def test_folders_of_the_bindings_import_earlier_ones_only() -> None:
    """The tick knows every kind of request, and what queues requests does not know the tick."""
    graph = _folders(_rust_imports(_CRATES["bindings"]))
    assert {*_BINDINGS} == graph.keys()
    order = {name: place for place, name in enumerate(_BINDINGS)}
    later = {
        (name, other)
        for name, imported in graph.items()
        for other in imported
        if order[other] > order[name]
    }
    assert set() == later


def test_methods_of_the_dispatcher_are_in_one_file() -> None:
    """Who looks for what Python can call finds all of it."""
    blocks = [
        module
        for module, source in _CRATES["bindings"].items()
        if re.search(r"#\[pymethods\]\nimpl Dispatcher\b", source)
    ]
    assert ["api"] == blocks


@pytest.mark.parametrize(
    ("crate", "module", "added"),
    [
        ("bindings", "dispatcher::request", "use crate::task::task::Task;"),
        ("bindings", "scope::members", "use crate::{tick::{dispatch, poll}};"),
        ("bindings", "task::future", "fn f() { crate::scope::sleep::sleep() }"),
        ("bindings", "net::stream", "use super::super::tick::dispatch;"),
        ("core", "syslet::call", "use crate::engine;"),
    ],
)
def test_a_rust_import_too_many_is_noticed(crate: str, module: str, added: str) -> None:
    """One import of a later folder makes a circle."""
    sources = _CRATES[crate] | {module: f"{_CRATES[crate][module]}\n{added}\n"}
    assert circles(_folders(_rust_imports(sources)))
