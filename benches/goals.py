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

    def met(self, figure: float | None, peers: Mapping[str, float]) -> bool | None:
        """Return whether the goal is met, given the peers' figures; None if one was not measured.

        A peer's figure of zero can be met, too: "no more errors than nginx".
        """
        bound = self.bound
        if self.peer is not None:
            if self.peer not in peers:
                return None
            bound *= peers[self.peer]
        if figure is None:
            return None
        return figure >= bound if self.relation == ">=" else figure <= bound

    def __str__(self) -> str:
        """Return the text that parses to this goal."""
        suffix = "" if self.peer is None else f"x {self.peer}"
        return f"{self.relation}{self.bound:g}{suffix}"
