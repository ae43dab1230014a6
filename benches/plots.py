"""Plots of distributions: ``python -m benches.plots RESULT.json ...`` draws into docs/figures.

A curve shows the share of the calls that took longer: it crosses 1 % at the 99th percentile. The
rounds of a peer are added up. Only drawing needs matplotlib; listing the plots does not.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benches.histogram import slower_than
from benches.peers import SUBJECT
from benches.placement import ROOT
from benches.results import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Within docs.
DIRECTORY = "figures"
#: The plots to draw, by scenario, case and distribution, and their captions.
_CAPTIONS = {
    ("calls", "mixed-two-cpus", "quick"): "mixed: calls that do not block, among some that do",
    ("calls", "mixed-two-cpus", "loop_lag"): "mixed: a request every millisecond",
    ("calls", "sleep-1ms", "added"): "sleep-1ms: time beyond a bare time.sleep(0.001)",
    ("calls", "next-request-two-cpus", "wait"): "next-request: a callback behind a blocking call",
    ("bystander", "storm", "late"): "storm: wake-ups of another process on the server's CPU",
}
#: The Okabe-Ito colours, which differ for the colour-blind, too; a peer has one colour everywhere.
_COLOURS = {
    SUBJECT: "#D55E00",
    "asyncio": "#0072B2",
    "pool-64": "#56B4E9",
    "uvloop": "#009E73",
    "anyio": "#CC79A7",
    "nginx": "#E69F00",
}
_OTHER_COLOUR = "#7F7F7F"
#: Shares below this are single calls.
_SHARE_MIN = 1e-4
#: A plot begins where the first curve falls below this share.
_SHARE_MAX = 0.99
#: Shorter times show nothing but the clock.
_TIME_MIN_US = 0.3


@dataclass(frozen=True)
class Plot:
    """The plot of one distribution of one case."""

    scenario: str
    case: str
    name: str
    caption: str

    @property
    def file_name(self) -> str:
        """The name of its file in the directory of figures."""
        return f"{self.scenario}-{self.case}-{self.name.replace('_', '-')}.svg"

    @property
    def markdown(self) -> str:
        """The Markdown that shows it on a page in docs."""
        return f"![{self.caption}: share that takes longer]({DIRECTORY}/{self.file_name})"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the plots of the given results, and print their paths."""
    parser = argparse.ArgumentParser(prog="python -m benches.plots", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    parser.add_argument("--directory", type=Path, default=ROOT / "docs" / DIRECTORY)
    arguments = parser.parse_args(argv)
    for path in arguments.results:
        for drawn in draw_all(Result.load(path).raw, arguments.directory):
            print(drawn)
    return 0


def of(result: dict[str, Any]) -> list[Plot]:
    """Return the plots for which the result has distributions."""
    present = {
        (result["scenario"], measurement["case"], name)
        for measurement in result["measurements"]
        for name in measurement.get("histograms", ())
    }
    return [Plot(*key, caption) for key, caption in _CAPTIONS.items() if key in present]


def draw_all(result: dict[str, Any], directory: Path) -> list[Path]:
    """Draw every plot of the result, and return the files."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for plot in of(result):
        paths.append(directory / plot.file_name)
        _draw(plot, curves(result, plot), paths[-1])
    return paths


def curves(result: dict[str, Any], plot: Plot) -> dict[str, list[tuple[float, float]]]:
    """Return for each peer the points: a time in us, and the share that takes longer."""
    histograms: dict[str, list[dict[str, int]]] = {}
    for peer in result["settings"]["peers"]:
        for measurement in result["measurements"]:
            if (measurement["case"], measurement["peer"]) == (plot.case, peer):
                found = measurement.get("histograms", {}).get(plot.name)
                if found:
                    histograms.setdefault(peer, []).append(found)
    return {peer: slower_than(of_peer) for peer, of_peer in histograms.items()}


def _draw(plot: Plot, drawn: dict[str, list[tuple[float, float]]], path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # With a fixed salt, the same curves give the same file.
    style: dict[Any, Any] = {
        "svg.hashsalt": plot.file_name,
        "svg.fonttype": "none",
        "font.family": "sans-serif",
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.5, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for peer, points in drawn.items():
            is_subject = peer == SUBJECT
            axes.plot(
                [points[0][0] / 1.1, *(time_us for time_us, _ in points)],
                # A logarithm does not show the zero at the end: let the curve leave the axes.
                [1.0, *(max(share, _SHARE_MIN / 10) for _, share in points)],
                label=peer,
                color=_COLOURS.get(peer, _OTHER_COLOUR),
                linewidth=2.4 if is_subject else 1.4,
                zorder=3 if is_subject else 2,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(_SHARE_MIN, 1)
        starts_us = [next(at for at, share in it if share < _SHARE_MAX) for it in drawn.values()]
        axes.set_xlim(left=max(_TIME_MIN_US, min(starts_us) / 2))
        axes.xaxis.set_major_formatter(lambda time_us, _: _time(time_us))
        ticks = {1.0: "all", 0.5: "50 %", 0.1: "10 %", 0.01: "1 %", 0.001: "0.1 %", 1e-4: "0.01 %"}
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.set_yticks([], minor=True)
        axes.set_ylabel("share that takes longer")
        axes.set_title(plot.caption, loc="left", fontsize=11)
        axes.grid(visible=True, which="major", color="#DDDDDD", linewidth=0.8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _time(time_us: float) -> str:
    if time_us >= 1e6:
        return f"{time_us / 1e6:g} s"
    return f"{time_us / 1e3:g} ms" if time_us >= 1e3 else f"{time_us:g} us"


if __name__ == "__main__":
    sys.exit(main())
