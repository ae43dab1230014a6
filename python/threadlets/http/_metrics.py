"""Metrics in Prometheus' text format, version 0.0.4. Knows nothing of what is counted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Names and values of labels.
Labels: TypeAlias = tuple[tuple[str, str], ...]


class Histogram(NamedTuple):
    """How often values were in which range."""

    #: Upper bounds, rising; the last range, above them all, has none.
    bounds: Sequence[float]
    #: For each range how many values were in it: one more than there are bounds.
    counts: Sequence[int]
    #: Of all values.
    sum: float


class Family(NamedTuple):
    """A metric: its kind, what it says, and its value for each set of labels."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    values: Mapping[Labels, float | Histogram]


_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def format_metrics(families: Mapping[str, Family], labels: Labels = ()) -> str:
    """Return the text that Prometheus scrapes; `labels` are added to each value.

    Raises:
        ValueError: a name is no name of a metric or label, or a histogram does not fit its bounds.
    """
    lines: list[str] = []
    for name, family in families.items():
        if not _METRIC_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a metric; use letters, digits, _ and :")
        lines.append(f"# HELP {name} {_escaped_help(family.help)}")
        lines.append(f"# TYPE {name} {family.kind}")
        for own, value in family.values.items():
            if isinstance(value, Histogram):
                lines.extend(_histogram(name, labels + own, value))
            else:
                lines.append(f"{name}{_labels(labels + own)} {_number(value)}")
    return "\n".join([*lines, ""])


def _histogram(name: str, labels: Labels, value: Histogram) -> Iterator[str]:
    if len(value.counts) != len(value.bounds) + 1:
        raise ValueError(
            f"{name} has {len(value.counts)} counts for {len(value.bounds)} bounds; give one more "
            "count than bounds"
        )
    n_so_far = 0
    for bound, count in zip((*value.bounds, math.inf), value.counts, strict=True):
        n_so_far += count
        yield f"{name}_bucket{_labels((*labels, ('le', _number(bound))))} {n_so_far}"
    yield f"{name}_sum{_labels(labels)} {_number(value.sum)}"
    yield f"{name}_count{_labels(labels)} {n_so_far}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    for name, _ in labels:
        if not _LABEL_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a label; use letters, digits and _")
    return "{" + ",".join(f'{name}="{_escaped_value(value)}"' for name, value in labels) + "}"


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(float(value))


def _escaped_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _escaped_value(text: str) -> str:
    return _escaped_help(text).replace('"', r"\"")
