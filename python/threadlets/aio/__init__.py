"""The dispatcher as an asyncio event loop."""

from threadlets.aio.loop import Loop
from threadlets.aio.runners import new_event_loop, run, stats

__all__ = ["Loop", "new_event_loop", "run", "stats"]
