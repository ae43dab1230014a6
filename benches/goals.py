"""Goals: bounds for the subject's figure, absolute or as a ratio to a peer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_GOAL = re.compile(r"(?P<relation>>=|<=)\s*(?P<bound>\d+(\.\d+)?)(x\s+(?P<peer>[\w-]+))?")


class GoalMalformed(ValueError):
    """A goal's text does not parse."""


@dataclass(frozen=True)
class Goal:
    """A bound: ``>=1.1x uvloop`` on the ratio against a peer, ``<=250`` on the figure itself."""

    relation: str
    bound: float
    peer: str | None

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Read ``>=1.1x uvloop`` or ``<=250``.

        :raises GoalMalformed: the text is neither.
        """
        match = _GOAL.fullmatch(text.strip())
        if match is None:
            raise GoalMalformed(f"{text!r} is not a goal; write '>=1.1x uvloop' or '<=250'.")
        return cls(match["relation"], float(match["bound"]), match["peer"])

    def met(self, figure: float | None, ratios: Mapping[str, float]) -> bool | None:
        """Return whether the goal is met; None if one of the figures was not measured."""
        value = figure if self.peer is None else ratios.get(self.peer)
        if value is None:
            return None
        return value >= self.bound if self.relation == ">=" else value <= self.bound

    def __str__(self) -> str:
        """Return the text that parses to this goal."""
        suffix = "" if self.peer is None else f"x {self.peer}"
        return f"{self.relation}{self.bound:g}{suffix}"
