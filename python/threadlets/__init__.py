"""A runtime in which everything is tried synchronously, and only what would block goes elsewhere.

Run any asyncio program on it: `threadlets.run(main())`, or
`asyncio.Runner(loop_factory=threadlets.new_event_loop)`.
"""

from threadlets._core import __version__
from threadlets.aio import Loop, new_event_loop, run

__all__ = ["Loop", "__version__", "new_event_loop", "run"]
