"""House rules that a machine can check: layers, sizes, names, and what files say of themselves."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from threadlets import __build__, _core

_ROOT = Path(__file__).parent.parent

# Which module may import which: a package imports from itself and from those that come earlier in this
# list, never from later ones.
_LAYERS = (
    "threadlets._core",
    "threadlets._arguments",
    "threadlets._lazy",
    "threadlets._public",
    "threadlets._hooks",
    "threadlets._introspection",
    "threadlets._user_error",
    "threadlets._user_traceback",
    "threadlets.exceptions",
    "threadlets.fp",
    "threadlets._running",
    "threadlets._syslets",
    "threadlets.atoms",
    "threadlets._calls",
    "threadlets._scopes",
    "threadlets._files",
    "threadlets._debug_mode",
    "threadlets._workers",
    "threadlets._executor",
    "threadlets._aio",
    "threadlets.frameworks",
    "threadlets",
    "threadlets.testing",
    # Imported by the command line alone.
    "threadlets.http",
    "threadlets.cli",
    "threadlets.__main__",
)
_LINES_MAX = 600


def _tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=_ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = [_ROOT / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.is_file()]


def _layer_of(module: str) -> int:
    """Return the layer of a module: that of the longest name in `_LAYERS` which it starts with."""
    names = [name for name in _LAYERS if module == name or module.startswith(name + ".")]
    return _LAYERS.index(max(names, key=len))


def _imported_modules(path: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # `from threadlets import _core` imports threadlets._core, not the package's face.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules += sorted(names & set(_LAYERS)) or [node.module]
    return [module for module in modules if module.split(".")[0] == "threadlets"]


def _module_name(path: Path) -> str:
    parts = path.relative_to(_ROOT / "python").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_MODULES = sorted(_tracked("python/threadlets/*.py"))


@pytest.mark.parametrize("path", _MODULES, ids=_module_name)
def test_modules_import_from_their_own_layer_or_earlier_ones(path: Path) -> None:
    """The loop does not know the command line, nor the command line the loop's inside."""
    module = _module_name(path)
    layer = _layer_of(module)
    for imported in _imported_modules(path):
        assert _layer_of(imported) <= layer, f"{module} imports {imported}, a later layer"
        if module.startswith("threadlets.cli"):
            public = imported in ("threadlets", "threadlets.fp")
            # The server is the command line's, too, and so are errors that its users can fix.
            ours = ("threadlets.cli", "threadlets.http", "threadlets._user_")
            assert public or imported.startswith(ours), (
                f"{module} imports {imported}: the command line uses the public face"
            )


def test_the_core_knows_nothing_of_python() -> None:
    """No file of the core names PyO3, and its manifest cannot bring it in."""
    for path in _tracked("crates/core"):
        assert "pyo3" not in path.read_text(), f"{path} knows PyO3"


def test_only_the_bindings_depend_on_pyo3() -> None:
    """One crate knows Python."""
    manifests = [path for path in _tracked("*Cargo.toml") if path.parent != _ROOT]
    dependents = [path.parent.name for path in manifests if "pyo3" in path.read_text()]
    assert ["bindings"] == dependents


# What the library imports of the interpreter and calls as it is: it can neither run Python code nor take the
# GIL. It gives up no reference, sets no exception but for want of memory, and makes nothing that the collector
# tracks.
_HARMLESS = {
    "PyBuffer_FillInfo",
    "PyByteArray_AsString",
    "PyByteArray_FromStringAndSize",
    "PyBuffer_IsContiguous",
    "PyBytes_FromStringAndSize",
    "PyCallable_Check",
    "PyCapsule_IsValid",
    "PyDict_Next",
    "PyErr_ExceptionMatches",
    "PyErr_GetRaisedException",
    "PyErr_GivenExceptionMatches",
    "PyErr_Occurred",
    "PyEval_SaveThread",
    "PyException_GetCause",
    "PyException_GetTraceback",
    "PyFloat_FromDouble",
    "PyGILState_Check",
    "PyInterpreterState_Get",
    "PyImport_GetModuleDict",
    "PyLong_FromLong",
    "PyLong_FromSsize_t",
    "PyLong_FromUnsignedLongLong",
    "PyMethod_Function",
    "PyModuleDef_Init",
    "PyObject_CheckBuffer",
    "PyObject_GC_Del",
    "PyObject_GC_UnTrack",
    "PySequence_Check",
    "PyThreadState_Get",
    "PyThread_get_stacksize",
    "PyThread_get_thread_ident",
    "PyType_IsSubtype",
    "PyUnicode_EqualToUTF8AndSize",
    "PyUnicode_FromStringAndSize",
    "PyUnicode_InternInPlace",
    "Py_GetVersion",
    "Py_IsFinalizing",
    "Py_IsInitialized",
    "_PyThreadState_UncheckedGet",
    "_PyTrash_begin",
    "_PyTrash_cond",
    "_PyTrash_thread_deposit_object",
    "_Py_CheckFunctionResult",
    "_Py_FatalErrorFunc",
    "_Py_IsFinalizing",
}


def test_python_is_called_under_a_guard_only() -> None:
    """Whatever can run Python code or take the GIL is replaced by a function that is not unwound through."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs nm, of the binutils")
    if __build__.startswith("debug"):
        pytest.skip("a debug build imports functions that nothing calls")
    imported = subprocess.run(
        [nm, "--dynamic", "--undefined-only", "--format=posix", _core.__file__],
        check=True,
        capture_output=True,
        text=True,
    )
    names = {row.split()[0] for row in imported.stdout.splitlines()}
    functions = {
        name
        for name in names
        if re.match("_?Py", name)
        and not re.search("^PyExc_|_Type$|Struct$|^_Py_EllipsisObject$", name)
    }
    listed = (_ROOT / "crates/bindings/src/py/python_calls.h").read_text()
    guarded = set(re.findall(r"^(?:CALL\d\(.*?, |DO\d\()(_?Py\w+)[,)]", listed, re.MULTILINE))
    guarded |= {"PyVectorcall_Function", "PyType_FromSpec"}
    assert "PyObject_GetAttr" in functions & guarded
    missing = sorted(functions - guarded - _HARMLESS)
    assert not missing, f"put these into crates/bindings/src/py/python_calls.h: {missing}"


def test_unsafe_stays_where_it_is_expected() -> None:
    """Raw pointers and descriptors live in few files; the state machines need none."""
    expected = {
        "crates/bindings/src/calls/call.rs",
        "crates/bindings/src/calls/call_beside.rs",
        "crates/bindings/src/calls/call_object.rs",
        "crates/bindings/src/calls/call_type.rs",
        "crates/bindings/src/calls/queued_call.rs",
        "crates/bindings/src/contract/context.rs",
        "crates/bindings/src/contract/errno.rs",
        "crates/bindings/src/contract/locals.rs",
        "crates/bindings/src/contract/mod.rs",
        "crates/bindings/src/dispatcher/outstanding.rs",
        "crates/bindings/src/dispatcher/worker.rs",
        "crates/bindings/src/http/wsgi.rs",
        "crates/bindings/src/py/asyncio_state.rs",
        "crates/bindings/src/py/byte_buffer.rs",
        "crates/bindings/src/py/context.rs",
        "crates/bindings/src/py/ctypes_errno.rs",
        "crates/bindings/src/py/entry_point.rs",
        "crates/bindings/src/py/gil_cell.rs",
        "crates/bindings/src/py/interpreter.rs",
        "crates/bindings/src/py/memory.rs",
        "crates/bindings/src/syslet/argument.rs",
        "crates/bindings/src/syslet/lease.rs",
        "crates/bindings/src/task/arguments.rs",
        "crates/bindings/src/task/awaited_by.rs",
        "crates/bindings/src/task/current_by_thread.rs",
        "crates/bindings/src/task/showing.rs",
        "crates/bindings/src/task/slots.rs",
        "crates/bindings/src/task/step.rs",
        "crates/bindings/src/task/visible.rs",
        "crates/bindings/src/workers/greenlets.rs",
        "crates/bindings/src/workers/role.rs",
        "crates/core/src/buffers.rs",
        "crates/core/src/engine/backend.rs",
        "crates/core/src/engine/blocking.rs",
        "crates/core/src/engine/blocking_pool.rs",
        "crates/core/src/engine/epoll.rs",
        "crates/core/src/engine/epoll_set.rs",
        "crates/core/src/engine/failure.rs",
        "crates/core/src/engine/sim.rs",
        "crates/core/src/engine/thread.rs",
        "crates/core/src/engine/uring.rs",
        "crates/core/src/errno.rs",
        "crates/core/src/fp/aarch64.rs",
        "crates/core/src/fp/x86_64.rs",
        "crates/core/src/mpsc_queue.rs",
        "crates/core/src/signals.rs",
        "crates/core/src/socket.rs",
        "crates/core/src/syslet/call.rs",
        "crates/core/src/syslet/effects.rs",
        "crates/core/src/syslet/fd.rs",
        "crates/core/src/syslet/inline.rs",
        "crates/core/src/syslet/memory.rs",
        "crates/core/src/syslet/prepare.rs",
        "crates/core/src/syslet/run.rs",
        "crates/core/src/syslet/syscall.rs",
        "crates/core/src/takeover/thread.rs",
        "crates/core/tests/engine.rs",
        "crates/core/tests/engine/failures.rs",
        "crates/core/tests/engine/forks.rs",
        "crates/core/tests/engine/kit.rs",
        "crates/core/tests/engine/peers.rs",
        "crates/http/src/connection.rs",
        "crates/http/src/metrics/shared.rs",
        "crates/http/src/sealed.rs",
        "crates/http/src/session.rs",
        "crates/http/src/socket.rs",
        "crates/http/src/static_files/body.rs",
    }
    code = re.compile(r"\bunsafe\s*(\{|impl|fn)")
    found = {
        str(path.relative_to(_ROOT)) for path in _tracked("*.rs") if code.search(path.read_text())
    }
    assert expected == found


@pytest.mark.parametrize("path", _tracked("*.py", "*.rs"), ids=lambda path: path.name)
def test_files_hold_one_idea(path: Path) -> None:
    """A file opens with its job, and stays short enough to be read at once."""
    text = path.read_text()
    n_lines = len(text.splitlines())
    assert n_lines <= _LINES_MAX, f"{path} has a second idea in it, which belongs in another file"
    if path.suffix == ".rs":
        assert text.startswith("//!"), f"{path} does not say what it is for"
    elif text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{path} does not say what it is for"


def test_make_help_lists_every_target() -> None:
    """Whoever reads `make help` knows every target that is meant for people."""
    makefile = (_ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (\S+)", makefile, re.MULTILINE))
    documented = set(re.findall(r"^(\S+):.*## ", makefile, re.MULTILINE))
    assert phony == documented


# What the project calls a thing has one name, in Rust, in Python and in the pages: docs/glossary.md. These were names of
# the same things once.
_OLD_WORDS = re.compile(
    r"\b(letterbox|mailbox|crew|roster|sentinel|offences?|hush|farewell|on watch|whoever)\b",
    re.IGNORECASE,
)


def test_old_names_do_not_come_back() -> None:
    """One word for one thing."""
    found = [
        f"{path.relative_to(_ROOT)}:{number}: {line.strip()}"
        for path in _tracked("*.py", "*.pyi", "*.rs", "*.c", "*.h", "*.md", "Makefile")
        if path != Path(__file__) and path.name != "CHANGELOG.md"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _OLD_WORDS.search(line)
    ]
    assert [] == found, "say it in other words; docs/glossary.md has those for what is ours"


def test_no_two_public_types_have_one_name() -> None:
    """Neither in one crate nor in two."""
    public = re.compile(r"^\s*pub(?:\([a-z ]+\))? (?:struct|enum|trait|union) (\w+)", re.MULTILINE)
    names = [
        name for path in _tracked("crates/*/src/*.rs") for name in public.findall(path.read_text())
    ]
    assert [] == sorted({name for name in names if names.count(name) > 1})


def _is_known(value: ast.expr) -> bool:
    """Whether an expression is a constant, or made of constants."""
    if isinstance(value, ast.Tuple | ast.List | ast.Set):
        return all(map(_is_known, value.elts))
    if isinstance(value, ast.Dict):
        return all(it is not None and _is_known(it) for it in [*value.keys, *value.values])
    if isinstance(value, ast.UnaryOp):
        return _is_known(value.operand)
    return isinstance(value, ast.Constant) or (
        isinstance(value, ast.Name) and value.id == "expected"
    )


@pytest.mark.parametrize("path", _tracked("tests/*.py"), ids=lambda path: path.name)
def test_assertions_name_the_expected_value_first(path: Path) -> None:
    """`assert expected == actual`, so that a failure reads the same everywhere."""
    compared = [
        node
        for assertion in ast.walk(ast.parse(path.read_text()))
        if isinstance(assertion, ast.Assert)
        for node in ast.walk(assertion.test)
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq)
        if node is assertion.test or node in getattr(assertion.test, "values", ())
    ]
    turned = [
        node.lineno
        for node in compared
        if _is_known(node.comparators[0]) and not _is_known(node.left)
    ]
    assert [] == turned


@pytest.mark.parametrize("path", _tracked("tests/*.py"), ids=lambda path: path.name)
def test_waits_for_a_condition_have_a_deadline(path: Path) -> None:
    """A loop that only sleeps waits for ever if the test fails; `waiting.eventually` does not."""
    loops = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.While)]
    only_sleep = re.compile(r"(await )?\w+\.sleep\((?!0\)).+\)")
    found = [
        loop.lineno
        for loop in loops
        if only_sleep.fullmatch("\n".join(map(ast.unparse, loop.body)))
    ]
    assert [] == found
