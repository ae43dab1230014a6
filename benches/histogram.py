"""Distributions of times as counts in bins of equal ratio, which are small and can be added up."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Counts by bin; JSON wants the bins' numbers as strings. Bin 0 begins at 1 us.
Histogram = dict[str, int]

#: A bin's upper edge is 12 % above its lower one.
BINS_PER_DECADE = 20
#: Smaller values are counted as this one; nothing that is timed here takes less.
_SMALLEST_US = 0.001


def histogram(values_us: Iterable[float]) -> Histogram:
    """Count values into bins."""
    bins = Counter(
        math.floor(BINS_PER_DECADE * math.log10(max(value, _SMALLEST_US))) for value in values_us
    )
    return {str(number): bins[number] for number in sorted(bins)}


def slower_than(histograms: Iterable[Histogram]) -> list[tuple[float, float]]:
    """Return for each bin of the summed histograms its upper edge in us and the share above it."""
    counts: Counter[int] = Counter()
    for one in histograms:
        counts.update({int(number): count for number, count in one.items()})
    n_above = n_values = counts.total()
    points = []
    for number in sorted(counts):
        n_above -= counts[number]
        points.append((10 ** ((number + 1) / BINS_PER_DECADE), n_above / n_values))
    return points


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share of the ordered values lies.

    :raises ValueError: there are none.
    """
    if not ordered:
        raise ValueError("nothing was timed, so there is no quantile; measure for longer")
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
