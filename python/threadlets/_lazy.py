"""Names of a package whose modules are loaded when somebody asks for one of them.

A program that needs a loop alone does not wait for the rest, nor keep it in memory.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def load_on_demand(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package: `homes` says which module each name comes from.

    A module's own name stands for the module.
    """

    def get(name: str) -> Any:
        home = homes.get(name)
        if home is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(home)
        value = module if home == f"{package}.{name}" else getattr(module, name)
        # From now on it is found without being asked for.
        setattr(sys.modules[package], name, value)
        return value

    return get
