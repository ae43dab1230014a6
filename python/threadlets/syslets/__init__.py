"""Syslets: programs of I/O atoms, traced from Python once, and run without it.

`syslet` calls a generator function with symbols, and keeps what it yields as statements (`trace`,
`tracing`); these become a graph (`graph`), which is put in order (`arrangement`) and written as
the table that the native core runs (`lowering`).
"""

from threadlets.syslets.completion_ring import Completion, CompletionRing
from threadlets.syslets.engine import Engine, engine
from threadlets.syslets.sweep import Sweep, sweep
from threadlets.syslets.syslet import Syslet, syslet

__all__ = [
    "Completion",
    "CompletionRing",
    "Engine",
    "Sweep",
    "Syslet",
    "engine",
    "sweep",
    "syslet",
]
