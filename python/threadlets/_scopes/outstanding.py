"""The ledger: what is outstanding, counted exactly and cheaply."""

from __future__ import annotations

import dataclasses
from typing import Any

from threadlets._core import BufferPool, Dispatcher
from threadlets._introspection import safe_repr
from threadlets._public import set_module
from threadlets._running import running_dispatcher


@set_module("threadlets")
@dataclasses.dataclass(frozen=True)
class Ledger:
    """Counts of everything outstanding, of a loop or of one scope.

    A ledger is true while anything is outstanding that has to end; false means that nothing leaked.
    Ready callbacks and timers of `call_later` own nothing, so they do not count for that. The ledger
    of a scope counts only requests; everything else belongs to the loop.
    """

    tasks: int = 0
    """Coroutines that have not ended."""
    calls: int = 0
    """Functions that were started in scopes and have not returned."""
    syslets: int = 0
    """Programs that were started in scopes and have not ended."""
    waits: int = 0
    """Sleeps and futures that were started in scopes and are not done."""
    runs: int = 0
    """Programs that an engine carries on for this loop, and waits for a sweep or a ring."""
    blocked: int = 0
    """Functions that are blocked, each in a thread of its own."""
    threads: int = 0
    """Threads of the loop, besides its home thread, that are not idle."""
    descriptors: int = 0
    """Descriptors that the loop watches: of connections, listening sockets, readers and writers."""
    buffers_bytes: int = 0
    """Memory that programs have on loan from the pool of all loops, in bytes."""
    timers: int = 0
    """Sleeps, time-outs and callbacks that are not due yet."""
    ready: int = 0
    """Callbacks and steps of tasks that the next tick runs."""

    def __bool__(self) -> bool:
        return any(
            getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("timers", "ready", "threads")
        )

    def __str__(self) -> str:
        counts = [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]
        return ", ".join(f"{n} {name}" for name, n in counts if n) or "nothing"


def ledger_of(loop: Dispatcher) -> Ledger:
    """Count what a loop has outstanding."""
    counts = loop._outstanding()
    # asyncio's self-pipe is registered like any reader.
    counts["descriptors"] -= getattr(loop, "_internal_fds", 0)
    return Ledger(**counts, buffers_bytes=BufferPool.default().in_use)


@set_module("threadlets")
def ledger() -> Ledger:
    """Count what the running loop has outstanding, including the calling task.

    Raises:
        RuntimeError: no threadlets loop runs in this thread.
    """
    return ledger_of(running_loop())


def running_loop() -> Dispatcher:
    """Return the running loop.

    Raises:
        RuntimeError: no loop runs in this thread, or it is not a threadlets loop.
    """
    return running_dispatcher("which has no scopes; use threadlets.run(main())")


def describe_requests(requests: list[Any], n_max: int = 10) -> str:
    """Name outstanding requests, and where each was started if that is known."""
    lines = []
    for request in requests[:n_max]:
        source = request._source_traceback
        started = f", started at {source[-1].filename}:{source[-1].lineno}" if source else ""
        lines.append(f"{safe_repr(request)}{started}")
    if len(requests) > n_max:
        lines.append(f"and {len(requests) - n_max} more")
    return "; ".join(lines)
