"""Look-up of the running loop, for code that needs a threadlets loop."""

from __future__ import annotations

import asyncio

from threadlets._core import Dispatcher


def running_dispatcher(
    why_not: str, *, remedy: str = "call it in a coroutine, within threadlets.run(main())"
) -> Dispatcher:
    """Return the running loop.

    `why_not` ends the error message "the running loop is …, " with the cause and the remedy; `remedy`
    says what to do where no loop runs.

    Raises:
        RuntimeError: no loop runs in this thread, or it is not a threadlets loop.
    """
    loop = asyncio._get_running_loop()
    if loop is None:
        raise RuntimeError(
            f"no loop runs in this thread, where one of threadlets is needed; {remedy}"
        )
    if not isinstance(loop, Dispatcher):
        raise RuntimeError(f"the running loop is {loop!r}, {why_not}")
    return loop


def running_dispatcher_or_none() -> Dispatcher | None:
    """Return the running loop; None if no loop runs in this thread, or not a threadlets loop."""
    loop = asyncio._get_running_loop()
    return loop if isinstance(loop, Dispatcher) else None
