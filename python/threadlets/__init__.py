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
from threadlets._aio.loop import Loop
from threadlets._aio.runners import new_event_loop, run, stats
from threadlets._calls import BATCH, INTERACTIVE, NORMAL, Pool, Priority, threadlet
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
from threadlets._executor import ThreadletExecutor
from threadlets._introspection import BlockedFunction
from threadlets._lazy import load_on_demand
from threadlets._scopes.outstanding import Ledger, ledger
from threadlets.exceptions import DrainTimeoutError, ThreadletsError

if TYPE_CHECKING:
    from threadlets._files.copying import copy_file
    from threadlets._files.file import AsyncFile
    from threadlets._files.opening import (
        open,  # noqa: A004 - the asynchronous counterpart of the builtin
    )
    from threadlets._files.path import Path
    from threadlets._files.walking import walk
    from threadlets._files.whole import read_file, write_file
    from threadlets._scopes.scope import Scope
    from threadlets._syslets.completion_ring import Completion, CompletionRing
    from threadlets._syslets.engines import Engine, engine
    from threadlets._syslets.program import Syslet, syslet
    from threadlets._syslets.sweeps import Sweep, sweep
else:
    _HOMES = {
        "threadlets.atoms": ("atoms",),
        "threadlets._files.copying": ("copy_file",),
        "threadlets._files.file": ("AsyncFile",),
        "threadlets._files.opening": ("open",),
        "threadlets._files.path": ("Path",),
        "threadlets._files.walking": ("walk",),
        "threadlets._files.whole": ("read_file", "write_file"),
        "threadlets._scopes.scope": ("Scope",),
        "threadlets._syslets.completion_ring": ("Completion", "CompletionRing"),
        "threadlets._syslets.engines": ("Engine", "engine"),
        "threadlets._syslets.program": ("Syslet", "syslet"),
        "threadlets._syslets.sweeps": ("Sweep", "sweep"),
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
    "ThreadletsError",
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
