"""Refuses to be imported into a subinterpreter, before anything native is loaded there.

Threads that take over, engines and the floating-point contract belong to the process, and are tied to the
interpreter that loads the native half first. A second one would crash, or keep the first from working.
"""

from __future__ import annotations

import importlib


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
        "threadlets was imported in a subinterpreter; its threads and engines belong to the process and "
        "work in the main interpreter alone: import it there, or run this program's loop with "
        "asyncio.run()",
        name="threadlets",
    )
