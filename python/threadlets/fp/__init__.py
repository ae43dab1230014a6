"""Floating-point state as a contract: known when a request begins, the same when it has run.

`environment` gives code a rounding of its own, wherever it goes on; `flags` tells which exceptions it
raised; `report` names whoever changed what was not theirs. See docs/floating-point.md.
"""

from threadlets._core import Environment, Flags
from threadlets.fp.ledger import Violation, report
from threadlets.fp.state import State, environment, flags, state

__all__ = [
    "Environment",
    "Flags",
    "Violation",
    "State",
    "environment",
    "flags",
    "report",
    "state",
]
