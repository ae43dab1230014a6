"""An asyncio runtime that tries each operation at once; only what would block goes elsewhere.

Run any asyncio program on it: `threadlets.run(main())`, or
`asyncio.Runner(loop_factory=threadlets.new_event_loop)`. Call plain functions that may block with
`await threadlets.call(function, …)`.
"""

from typing import TYPE_CHECKING

from threadlets import (
    _interpreter,  # noqa: F401 - first: raises ImportError where threadlets cannot work
    fp,
)
from threadlets._core import (
    BufferPool,
    Call,
    Lease,
    Result,
    Stay,
    __build__,
    __version__,
    call,
    sleep,
    stay,
)
from threadlets._lazy import load_on_demand
from threadlets.aio import Loop, new_event_loop, run, stats
from threadlets.calls import BATCH, INTERACTIVE, NORMAL, Pool, Priority, threadlet
from threadlets.executor import ThreadletExecutor
from threadlets.scopes import BlockedFunction, DrainTimeoutError, Ledger, ledger

if TYPE_CHECKING:
    from threadlets.files import (
        AsyncFile,
        Path,
        copy_file,
        open,  # noqa: A004 - the asynchronous counterpart of the builtin
        read_file,
        walk,
        write_file,
    )
    from threadlets.scopes import Scope
    from threadlets.syslets import (
        Completion,
        CompletionRing,
        Engine,
        Sweep,
        Syslet,
        engine,
        sweep,
        syslet,
    )
else:
    _HOMES = {
        "threadlets.atoms": ("atoms",),
        "threadlets.files": (
            "AsyncFile",
            "Path",
            "copy_file",
            "files",
            "open",
            "read_file",
            "walk",
            "write_file",
        ),
        "threadlets.scopes": ("Scope",),
        "threadlets.syslets": (
            "Completion",
            "CompletionRing",
            "Engine",
            "Sweep",
            "Syslet",
            "engine",
            "sweep",
            "syslet",
            "syslets",
        ),
    }
    __getattr__ = load_on_demand(
        __name__, {name: home for home, names in _HOMES.items() for name in names}
    )

__all__ = [
    "BATCH",
    "INTERACTIVE",
    "NORMAL",
    "AsyncFile",
    "BlockedFunction",
    "BufferPool",
    "Call",
    "Completion",
    "CompletionRing",
    "DrainTimeoutError",
    "Engine",
    "Lease",
    "Ledger",
    "Loop",
    "Path",
    "Pool",
    "Priority",
    "Result",
    "Scope",
    "Stay",
    "Sweep",
    "Syslet",
    "ThreadletExecutor",
    "__build__",
    "__version__",
    "call",
    "copy_file",
    "engine",
    "fp",
    "ledger",
    "new_event_loop",
    "open",
    "read_file",
    "run",
    "sleep",
    "stats",
    "stay",
    "sweep",
    "syslet",
    "threadlet",
    "walk",
    "write_file",
]


def __dir__() -> list[str]:
    """List all names, including those whose modules are not loaded yet."""
    return sorted({*globals(), *__all__})
