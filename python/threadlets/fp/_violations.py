"""The record of code that changed the floating-point state: which code, how often, in what way."""

from __future__ import annotations

import dataclasses
from typing import Any

from threadlets._introspection import locate
from threadlets._public import set_module


@set_module("threadlets.fp")
@dataclasses.dataclass(frozen=True)
class Violation:
    """One way in which one piece of code left the floating-point state changed."""

    #: The qualified name of the coroutine, function, or protocol.
    name: str
    #: Where it is: "file:line", of a coroutine the place where it is suspended; "?" if unknown.
    where: str
    #: What was changed, in words: "rounding upward, flush-to-zero".
    changes: str
    #: How often.
    count: int


_counts: dict[tuple[str, str], tuple[str, int]] = {}


@set_module("threadlets.fp")
def report() -> dict[str, list[Violation]]:
    """List the violations in this process so far, by the qualified name of the code.

    Each name has an entry for every way in which it changed the state, with the latest place.
    """
    found: dict[str, list[Violation]] = {}
    for (name, changes), (where, count) in _counts.items():
        found.setdefault(name, []).append(Violation(name, where, changes, count))
    return found


def record(subject: Any, changes: str) -> Violation:
    """Count a violation by `subject`: a callable, a protocol, or None for a request of the loop."""
    name, where = locate(subject)
    _, count = _counts.get((name, changes), ("", 0))
    _counts[name, changes] = (where, count + 1)
    return Violation(name, where, changes, count + 1)
