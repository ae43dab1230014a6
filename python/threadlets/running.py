"""The running loop, for those who need it to be threadlets'."""

from __future__ import annotations

import asyncio

from threadlets._core import Dispatcher


def running_dispatcher(why_not: str) -> Dispatcher:
    """Return the running loop; `why_not` goes on after "the running loop is …," and names a remedy.

    Raises:
        RuntimeError: none runs in this thread, or it is not threadlets'.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, Dispatcher):
        raise RuntimeError(f"the running loop is {loop!r}, {why_not}")
    return loop
