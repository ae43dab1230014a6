"""Lazy imports: names of a package whose modules are loaded at first use.

A program that needs only the loop neither waits for the other modules nor keeps them in memory.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def load_on_demand(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for `package`; `homes` maps each name to the module that defines it.

    The name of a submodule stands for the submodule itself.
    """

    def get(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(home)
        value = module if home == f"{package}.{name}" else getattr(module, name)
        # The next look-up finds the attribute without calling `__getattr__`.
        setattr(sys.modules[package], name, value)
        return value

    return get
