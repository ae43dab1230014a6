"""A runtime in which everything is tried synchronously, and only what would block goes elsewhere.

Run any asyncio program on it: `threadlets.run(main())`, or
`asyncio.Runner(loop_factory=threadlets.new_event_loop)`. Call plain functions that may block with
`await threadlets.call(function, …)`.
"""

from threadlets._core import Call, __version__, call
from threadlets.aio import Loop, new_event_loop, run, stats
from threadlets.calls import BATCH, INTERACTIVE, NORMAL, Pool, Priority, threadlet
from threadlets.executor import ThreadletExecutor

__all__ = [
    "BATCH",
    "INTERACTIVE",
    "NORMAL",
    "Call",
    "Loop",
    "Pool",
    "Priority",
    "ThreadletExecutor",
    "__version__",
    "call",
    "new_event_loop",
    "run",
    "stats",
    "threadlet",
]
