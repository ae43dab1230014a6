"""Exceptions: in one module, with one base class, and none that users cannot import."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import re
from pathlib import Path

import pytest
import threadlets
from threadlets import _core, exceptions
from threadlets._introspection import BlockedFunction

_ROOT = Path(__file__).parent.parent

#: Exceptions that never reach a user, and who catches them.
_INTERNAL = {
    "threadlets._files.descriptor.Interrupted": "threadlets._files.binary raises its cause",
    "threadlets._user_error.UserError": "the command prints it",
}

_PUBLIC = {name: getattr(exceptions, name) for name in exceptions.__all__}


def _exceptions_by_module() -> dict[str, type[BaseException]]:
    """Return the exception classes of all modules, by the names under which these define them."""
    found = {}
    for info in pkgutil.walk_packages(threadlets.__path__, "threadlets."):
        if info.name.endswith(".__main__"):
            continue
        for name, value in vars(importlib.import_module(info.name)).items():
            is_exception = isinstance(value, type) and issubclass(value, BaseException)
            if is_exception and value.__module__.partition(".")[0] == "threadlets":
                found[f"{value.__module__}.{value.__qualname__}"] = value
                assert name == value.__name__
    return found


def test_exceptions_are_defined_in_one_module() -> None:
    """All exceptions of our own are in `threadlets.exceptions`."""
    found = _exceptions_by_module()
    public = {f"threadlets.exceptions.{name}": value for name, value in _PUBLIC.items()}
    assert public == {name: value for name, value in found.items() if name not in _INTERNAL}
    assert set(_INTERNAL) == found.keys() - public.keys()


@pytest.mark.parametrize("name", sorted(_PUBLIC.keys() - {"ThreadletsError"}))
def test_exceptions_have_one_base_class(name: str) -> None:
    """`except ThreadletsError` catches them all, and so does a standard exception."""
    assert issubclass(_PUBLIC[name], exceptions.ThreadletsError)
    standard = {it for it in _PUBLIC[name].__mro__ if it.__module__ == "builtins"}
    assert standard > {BaseException, Exception, object}


@pytest.mark.parametrize("name", exceptions.__all__)
def test_exceptions_are_documented(name: str) -> None:
    """With the standard exceptions that they are."""
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \|", (_ROOT / "docs/exceptions.md").read_text(), re.MULTILINE
    )
    bases = [base.__name__ for base in _PUBLIC[name].__bases__]
    if len(bases) > 1:
        bases = [it for it in bases if it != "ThreadletsError"]
    assert ", ".join(f"`{base}`" for base in bases) == dict(rows)[name]


def test_the_native_core_defines_no_exceptions() -> None:
    """It raises those of Python and of asyncio."""
    kinds = [value for value in vars(_core).values() if isinstance(value, type)]
    assert [] == [it for it in kinds if issubclass(it, BaseException)]
    for path in (_ROOT / "crates").rglob("*.rs"):
        text = path.read_text()
        assert "create_exception!" not in text, path
        assert "extends = PyException" not in text, path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "error",
    [
        exceptions.SysletError("no such atom", "program.py", 7),
        exceptions.SysletTypeError("a path for a descriptor", "program.py", 7),
        exceptions.DrainTimeoutError(
            "one request is left", [BlockedFunction("time.sleep", "threadlets-1", 2.0, "")]
        ),
        exceptions.FloatingPointStateChanged("f", "program.py:7", "rounding upward"),
        exceptions.LeakError("a task is left"),
        exceptions.MissingPackage("anyio is not installed", name="anyio"),
        exceptions.ClientDisconnected(103, "the client has left"),
        exceptions.ConfigError("port", -1, "ports lie between 0 and 65535", "choose another"),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, Exception) else str(it),
)
def test_exceptions_can_be_pickled(error: Exception, protocol: int) -> None:
    """They pass from a worker process to its parent, with their attributes."""
    error.__notes__ = ["a note"]
    restored = pickle.loads(pickle.dumps(error, protocol))
    assert (type(error), error.args, str(error)) == (type(restored), restored.args, str(restored))
    assert vars(error) == vars(restored)
    for name in ("errno", "strerror", "name"):
        assert getattr(error, name, None) == getattr(restored, name, None)
