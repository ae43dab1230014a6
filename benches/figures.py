"""Figures in prose: ``41 ns <!-- bench: calls/noop/direct/call_ns -->`` marks a stored figure.

A mark names scenario, case, peer and metric. Writing the page replaces a marked figure by the stored
one, with as many decimals as before; a figure without a mark is left alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benches.placement import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benches.results import Result

_MARK = "<!-- bench:"
_FIGURE = re.compile(
    r"(?P<figure>\d[\d,]*(\.\d+)?)(?P<rest>[^\d<]*<!-- bench: (?P<place>[^\s>]+) -->)"
)


class MarkWrong(Exception):
    """A mark does not follow a figure, or names none that is stored."""


def texts() -> list[Path]:
    """Return the files whose figures may be marked."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def update(text: str, stored: Mapping[str, Result]) -> str:
    """Return the text with the stored figures.

    :raises MarkWrong: a mark has no figure.
    """
    updated, n_figures = _FIGURE.subn(lambda match: _figure(match, stored), text)
    if n_figures != text.count(_MARK):
        raise MarkWrong(f"{text.count(_MARK) - n_figures} marks do not follow a figure")
    return updated


def _figure(match: re.Match[str], stored: Mapping[str, Result]) -> str:
    n_decimals = len(match["figure"].partition(".")[2])
    return f"{_value(match['place'], stored):,.{n_decimals}f}{match['rest']}"


def _value(place: str, stored: Mapping[str, Result]) -> float:
    scenario, case, peer, metric = place.split("/")
    if scenario in stored:
        for row in stored[scenario].rows():
            if (row.case, row.metric.name) == (case, metric) and peer in row.spreads:
                return row.spreads[peer].median
    raise MarkWrong(f"{place} is not among the stored results; measure it, or leave the figure out")
