"""Checks of arguments: the error names the argument, what it was given, and what it takes."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, TypeVar

from threadlets._core import BufferPool, Environment

T = TypeVar("T")


def wrong_type(name: str, value: object, meaning: str, remedy: str) -> TypeError:
    """Return the error for an argument of the wrong type.

    `meaning` goes on after "it is", and `remedy` says what to pass.
    """
    shown = repr(value)
    if len(shown) > 60:
        shown = f"{shown[:57]}..."
    return TypeError(
        f"{name} is {shown}, of type {type(value).__name__}; it is {meaning}: {remedy}"
    )


def check_integer(name: str, value: Any, meaning: str) -> int:
    """Return an integer, or whatever can be used as one (`__index__`)."""
    try:
        return operator.index(value)
    except TypeError:
        raise wrong_type(name, value, meaning, "pass an int") from None


def check_number(name: str, value: Any, meaning: str) -> float:
    """Return a number as a float: an int, a float, or whatever has `__float__` or `__index__`."""
    # `float` takes text, too.
    if not isinstance(value, str | bytes | bytearray):
        try:
            return float(value)
        except TypeError:
            pass
    raise wrong_type(name, value, meaning, "pass a float or an int")


def check_choice(name: str, value: Any, choices: Iterable[str], remedy: str) -> None:
    """Refuse what is none of the choices, with a ValueError, or with a TypeError if it is no str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}, of type {type(value).__name__}; {remedy}")
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; {remedy}")


def check_environment(fp: object) -> None:
    """Refuse what is no floating-point environment, as the argument `fp`."""
    if not isinstance(fp, Environment):
        meaning = "the floating-point environment to compute in"
        raise wrong_type("fp", fp, meaning, "make one with threadlets.fp.environment(…)")


def check_buffer_pool(pool: object) -> None:
    """Refuse what is neither a pool of buffers nor None, as the argument `pool`."""
    if pool is not None and not isinstance(pool, BufferPool):
        raise wrong_type("pool", pool, "the pool that buffers come from", "pass a BufferPool")
