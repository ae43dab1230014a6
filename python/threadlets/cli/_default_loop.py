"""Makes asyncio create threadlets loops, so that programs run on them unedited.

`asyncio.run`, `asyncio.Runner` and `asyncio.new_event_loop` do so, and before CPython 3.14
`asyncio.get_event_loop`, too. A program that names another loop (`loop_factory=`, `uvloop.install()`)
still gets that one.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import events, unix_events
from collections.abc import Callable


def set_loop_factory(make: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Let asyncio make its loops by calling `make`, unless a program names another loop."""
    if sys.version_info < (3, 14):

        class Policy(asyncio.DefaultEventLoopPolicy):
            """The default policy, which calls `make` for a new loop."""

            def new_event_loop(self) -> asyncio.AbstractEventLoop:
                return make()

        asyncio.set_event_loop_policy(Policy())
        return
    # The public functions for policies warn. Until CPython 3.16 asyncio itself uses a policy, and a
    # program may set its own: change only the loops of the default one.
    default = getattr(unix_events, "_DefaultEventLoopPolicy", None)
    if default is not None:
        default._loop_factory = staticmethod(make)
    else:
        asyncio.new_event_loop = events.new_event_loop = make
