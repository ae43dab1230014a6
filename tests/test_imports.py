"""Which modules import which: no circles."""

from __future__ import annotations

import ast
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
    "threadlets.testing",
    "threadlets.testing.plugin",
}


def test_python_modules_are_private_but_for_those_that_users_type() -> None:
    """A private module, or a package that it lies in, begins with an underscore."""
    public = {name for name in _SOURCES if "._" not in name or name.endswith(".__main__")}
    assert {"threadlets", *_PUBLIC} == public
