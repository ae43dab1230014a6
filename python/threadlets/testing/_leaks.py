"""Check that nothing leaked: the ledger of every loop of a test ends at zero."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from threadlets import BufferPool, Loop
from threadlets._aio.leaks import leaks_are_errors
from threadlets._aio.loop import describe_what_is_left
from threadlets._aio.tasks import loops
from threadlets._public import set_module
from threadlets.exceptions import LeakError


@set_module("threadlets.testing")
@contextlib.contextmanager
def no_leaks() -> Iterator[None]:
    """Check that the block leaves nothing behind on threadlets loops.

    Closing a loop in the block raises `LeakError` instead of warning; where that would replace
    another exception, the end of the block raises it. Loops that the block makes and leaves open must
    have nothing outstanding, and no result or run may still hold memory of the default buffer pool.

    Raises:
        LeakError: something is left; the message names it.
    """
    before = set(map(id, loops()))
    pool = BufferPool.default()
    in_use_before = pool.in_use
    with leaks_are_errors() as not_raised:
        yield
    if not_raised:
        raise LeakError(not_raised[0])
    for loop in loops():
        if id(loop) in before or not isinstance(loop, Loop) or loop.is_closed():
            continue
        if left := describe_what_is_left(loop):
            raise LeakError(f"{loop!r} still has something outstanding: {left}")
    if pool.in_use > in_use_before:
        # Unreferenced results may still wait for the garbage collector.
        gc.collect()
    if (n_bytes := pool.in_use - in_use_before) > 0:
        raise LeakError(
            f"{n_bytes} bytes of the buffer pool are still in use: a result of a program holds "
            "them, or a program is in flight"
        )
