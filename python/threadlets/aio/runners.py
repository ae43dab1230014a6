"""Entry points: make a loop, or run a coroutine on a new one."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Coroutine
from typing import Any, TypeVar

from threadlets.aio.loop import Loop

T = TypeVar("T")


def new_event_loop() -> Loop:
    """Make a new event loop, for `asyncio.Runner(loop_factory=threadlets.new_event_loop)`.

    Raises:
        OSError: the process has no descriptors left; raise its limit (`ulimit -n`).
    """
    return Loop()


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run the coroutine `main` on a new loop and return its result, like `asyncio.run`.

    The loop is closed afterwards: tasks that are left are cancelled, async generators and the
    default executor are shut down. `debug` switches asyncio's debug mode on or off; None leaves
    it to PYTHONASYNCIODEBUG and `python -X dev`.

    Raises:
        RuntimeError: a loop is running in this thread already.
        ValueError: `main` is not a coroutine.
        BaseException: whatever `main` raises.
    """
    if events._get_running_loop() is not None:
        # The runner would find out too late: closing its unused loop takes a coroutine.
        if asyncio.iscoroutine(main):
            main.close()
        raise RuntimeError(
            "threadlets.run() cannot be called from a running event loop: this thread runs one "
            "already; await the coroutine there instead"
        )
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)
