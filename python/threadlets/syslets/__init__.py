"""Syslets: programs of I/O atoms, traced from a Python function once, and run without Python.

`syslet` calls a generator function with symbols and records the atoms that it yields as statements
(`trace`, `tracing`). The statements become a graph (`graph`); the graph is put in order
(`arrangement`) and lowered to the table that the native core runs (`lowering`).
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
