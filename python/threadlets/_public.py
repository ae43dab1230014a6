"""`set_module`: shows a name as part of the public module from which users import it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])


def set_module(module: str) -> Callable[[T], T]:
    """Return a decorator for a class or function that is defined in a private module.

    Its repr, its pickles and its documentation name `module`, which must have it as an attribute.
    """

    def set_on(public: T) -> T:
        public.__module__ = module
        return public

    return set_on
