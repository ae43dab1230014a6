"""Syslets: programs of I/O atoms, traced from a Python function once, and run without Python.

`syslet` calls a generator function with symbols and records the atoms that it yields as statements
(`statements`, `tracing`). The statements become a graph (`graph`); the graph is put in order
(`arrangement`) and lowered to the table that the native core runs (`lowering`).
"""

import os

from threadlets._core import forget_engine

# Here, since whichever module of the package is used, the child of a fork needs an engine of its own.
os.register_at_fork(after_in_child=forget_engine)
