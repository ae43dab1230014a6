"""Proof that nothing leaked: every loop of a test ends with a ledger of zero."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from threadlets import BufferPool, Loop
from threadlets.aio.tasks import loops
from threadlets.exceptions import LeakError
from threadlets.scopes.leaks import describe_what_is_left, leaks_are_errors


@contextlib.contextmanager
def no_leaks() -> Iterator[None]:
    """Check that what the block does on threadlets loops leaves nothing behind.

    Loops that are closed in the block raise `LeakError` instead of warning; where another exception
    is on its way, the block does when it ends. Loops that it makes and
    leaves open must have nothing outstanding, and no program may have kept memory on loan.

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
            raise LeakError(f"{loop!r} has something outstanding still: {left}")
    if pool.in_use > in_use_before:
        # Results that nobody refers to any more may wait for the collector.
        gc.collect()
    if (n_bytes := pool.in_use - in_use_before) > 0:
        raise LeakError(
            f"{n_bytes} bytes of memory are on loan still: a result of a program holds them, or a "
            "program is under way"
        )
