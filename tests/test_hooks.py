"""The methods that the native core calls by name are those that the Python side declares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import pytest
from threadlets import _core, _hooks

_RUST = Path(__file__).parent.parent / "crates/bindings/src"


class Greeter(Protocol):
    """Hooks of an owner that the tests make."""

    def _greet(self, name: str, /) -> None:
        """Greet."""


def test_each_hook_has_one_declaration() -> None:
    """Native code calls a hook of ours by its function in `hooks.rs`, and by nothing else."""
    names = {name for _, name, _ in _core.hooks()}
    assert len(names) == len(_core.hooks())
    elsewhere = {
        (path.name, name)
        for path in _RUST.rglob("*.rs")
        if path.name != "hooks.rs"
        for name in re.findall(r'"(_\w+)"', path.read_text())
        if name in names
    }
    assert set() == elsewhere


@pytest.mark.parametrize(
    "native",
    [
        [],
        [("Greeter", "_greet", 2)],
        [("Other", "_greet", 1)],
        [("Greeter", "_greet", 1), ("Greeter", "_part", 0)],
    ],
)
def test_a_native_module_with_other_hooks_is_refused(native: list[tuple[str, str, int]]) -> None:
    """It belongs to another version; the message says what differs."""
    with pytest.raises(ImportError, match="belongs to another version of threadlets"):
        _hooks.compare({"Greeter": Greeter}, native, "_core.so")
    _hooks.compare({"Greeter": Greeter}, [("Greeter", "_greet", 1)], "_core.so")


def test_a_class_has_its_hooks() -> None:
    """A missing method, or one with other arguments, is noticed where the class is defined."""
    with pytest.raises(TypeError, match=r"has no _greet\(\), which the native core calls"):

        @_hooks.implements(Greeter)
        class WithoutHook:
            pass

    with pytest.raises(TypeError, match=r"_greet\(\) of 0 arguments; the native core passes 1"):

        @_hooks.implements(Greeter)
        class TooFewArguments:
            def _greet(self) -> None: ...

    @_hooks.implements(Greeter)
    class OptionalArgument:
        def _greet(self, name: str, how: str = "kindly") -> None: ...

    assert OptionalArgument()._greet("you") is None
