"""Floating-point state as a contract: known when a request begins, the same when it has run.

`environment` gives code a rounding mode of its own, on whichever thread it goes on; `flags` tells
which exceptions code has raised; `report` names the code that violated the contract. See
docs/floating-point.md.
"""

from threadlets._core import Environment, Flags
from threadlets.fp._state import State, environment, flags, state
from threadlets.fp._violations import Violation, report

__all__ = [
    "Environment",
    "Flags",
    "State",
    "Violation",
    "environment",
    "flags",
    "report",
    "state",
]
