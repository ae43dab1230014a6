"""The event-loop policy that gives unedited programs our loop.

`asyncio.run`, `asyncio.Runner`, `asyncio.new_event_loop` and `asyncio.get_event_loop` all ask the
policy. A program that names another loop (`loop_factory=`, `uvloop.install()`) still gets that one.
"""

from __future__ import annotations

import asyncio

import threadlets


class ThreadletsPolicy(asyncio.DefaultEventLoopPolicy):
    """Make every new event loop a `threadlets.Loop`, in asyncio debug mode if `debug` is set."""

    def __init__(self, *, debug: bool = False) -> None:
        super().__init__()
        self._debug = debug

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = threadlets.new_event_loop()
        if self._debug:
            loop.set_debug(True)
        return loop
