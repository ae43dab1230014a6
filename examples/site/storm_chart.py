"""Draws the results of a storm in the terminal: a bar for each figure, as long as it is large."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from .storm import Result

_WIDTH = 24
#: The last cell of a bar in eighths; ASCII has whole cells only.
_EIGHTHS = " ▏▎▍▌▋▊▉"


def chart(results: list[Result], title: str, console: Console) -> Table:
    """Return the table; where the terminal has no block characters, bars are of `#`."""
    has_blocks = console.encoding.lower().startswith("utf")
    rate_max = max(it.requests_per_s for it in results)
    cpu_max = max(it.cpu_us_per_request for it in results)
    table = Table(title=title)
    table.add_column("server", no_wrap=True)
    table.add_column("requests/s", no_wrap=True)
    table.add_column("CPU us per request", no_wrap=True)
    table.add_column("failures", justify="right")
    for it in results:
        table.add_row(
            it.server,
            f"{it.requests_per_s:>7,.0f} {bar(it.requests_per_s, rate_max, has_blocks)}",
            f"{it.cpu_us_per_request:>5,.0f} {bar(it.cpu_us_per_request, cpu_max, has_blocks)}",
            f"{it.n_failed:,}",
        )
    return table


def bar(value: float, largest: float, has_blocks: bool = True) -> str:
    """Return a bar; that of the largest value is full."""
    share = min(1.0, value / largest) if largest > 0 else 0.0
    n_eighths = round(share * _WIDTH * 8)
    if not has_blocks:
        return ("#" * round(share * _WIDTH)).ljust(_WIDTH)
    whole, part = divmod(n_eighths, 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(_WIDTH)
