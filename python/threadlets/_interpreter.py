"""Raises ImportError where threadlets cannot work: in a subinterpreter, and without a GIL.

Threads that take over, engines and the floating-point contract belong to the process, and are tied
to the interpreter that loads the native half first. A second interpreter would crash, or keep the
first from working. This is checked before anything native is loaded.

The GIL guards all state of the native half, and the native module declares that: a free-threaded
interpreter enables the GIL when it loads the module, and warns of that itself. It does neither if it
was started with the GIL switched off explicitly.
"""

from __future__ import annotations

import importlib
import sys


def _is_main() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = importlib.import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True


if not _is_main():
    raise ImportError(
        "threadlets was imported in a subinterpreter; its threads and engines belong to the process "
        "and work only in the main interpreter: import it there, or run this program's loop with "
        "asyncio.run()",
        name="threadlets",
    )


def _check_lock() -> None:
    """Load the native half, and check that the GIL is enabled then."""
    importlib.import_module("threadlets._core")
    is_gil_enabled = getattr(sys, "_is_gil_enabled", None)
    if is_gil_enabled is not None and not is_gil_enabled():
        raise ImportError(
            "threadlets was imported where the GIL is switched off for good; the GIL guards the "
            "state of its loops: leave out PYTHON_GIL=0 and -X gil=0, and the interpreter enables "
            "the GIL when threadlets is imported",
            name="threadlets",
        )


_check_lock()
