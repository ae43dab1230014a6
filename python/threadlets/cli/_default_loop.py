"""What gives unedited programs our loop: asyncio is told how to make loops.

`asyncio.run`, `asyncio.Runner` and `asyncio.new_event_loop` all ask it, and before CPython 3.14
`asyncio.get_event_loop`, too. A program that names another loop (`loop_factory=`, `uvloop.install()`)
still gets that one.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import events, unix_events
from collections.abc import Callable


def make_loops_by(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Have asyncio make its loops by calling `make`, wherever a program names no other."""
    if sys.version_info < (3, 14):

        class Policy(asyncio.DefaultEventLoopPolicy):
            """The default policy, but for the loops that it makes."""

            def new_event_loop(self) -> asyncio.AbstractEventLoop:
                return make()

        asyncio.set_event_loop_policy(Policy())
        return
    # Using policies warns; until CPython 3.16 asyncio does so itself, and programs may bring one of their own.
    default = getattr(unix_events, "_DefaultEventLoopPolicy", None)
    if default is not None:
        default._loop_factory = staticmethod(make)
    else:
        asyncio.new_event_loop = events.new_event_loop = make
