"""Many functions that are blocked at once: how soon they start, how many threads, how much memory."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benches.calls.timing import now_ns
from benches.scenario import Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benches.calls.ways import Call

#: More bytes than `pthread_attr_t` has on any platform.
_ATTRIBUTES_SIZE = 256


@dataclass(frozen=True)
class Usage:
    """Threads and memory of this process."""

    n_threads: int
    rss_kib: int

    @classmethod
    def now(cls) -> Usage:
        """Ask the kernel."""
        lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
        fields = {line[0]: line[1] for line in lines if len(line) > 1}
        return cls(int(fields["Threads:"]), int(fields["VmRSS:"]))


async def blockers(call: Call, _seconds: float, parameters: Mapping[str, Any]) -> Reading:
    """Call ``time.sleep`` many times at once.

    Memory does not include the tasks that make the calls. With ``settle_ms``, the threads that are
    left so long after the last function has returned are counted, too.
    """
    sleep_s = parameters["sleep_ms"] / 1e3
    started_at_ns: list[int] = []

    def block() -> None:
        started_at_ns.append(now_ns())
        time.sleep(sleep_s)

    async def one() -> None:
        await call(block)

    stack_size = await _stack_size(call)
    tasks = [asyncio.create_task(one()) for _ in range(parameters["n_blockers"])]
    before = Usage.now()
    usages = [before]
    sampling = asyncio.create_task(_sample(usages))
    started_ns = now_ns()
    await asyncio.gather(*tasks)
    ended_ns = now_ns()
    sampling.cancel()
    n_threads = max(usage.n_threads for usage in usages)
    n_added = n_threads - before.n_threads
    figures = {
        "wall_ms": (ended_ns - started_ns) / 1e6,
        "start_ms": (max(started_at_ns) - started_ns) / 1e6,
        "threads_peak": float(n_threads),
        "stack_size_kib": stack_size / 1024,
    }
    # If few threads serve many calls, the memory is mostly that of calls that wait.
    if 2 * n_added >= len(tasks):
        rss_kib = max(usage.rss_kib for usage in usages) - before.rss_kib
        figures["rss_kib_per_thread"] = rss_kib / n_added
    if settle_ms := parameters.get("settle_ms"):
        await asyncio.sleep(settle_ms / 1e3)
        # The main thread does not count.
        figures["threads_left"] = float(Usage.now().n_threads - 1)
    return Reading(figures)


async def _sample(usages: list[Usage]) -> None:
    while True:
        usages.append(Usage.now())
        await asyncio.sleep(0.01)


async def _stack_size(call: Call) -> float:
    """Return the stack size, in bytes, of the threads that call functions besides the main thread.

    Zero if the main thread calls all of them.
    """
    sizes: list[int] = []

    def look() -> None:
        # Block, so that the next function is called on another thread.
        time.sleep(0.02)
        if threading.get_ident() != threading.main_thread().ident:
            sizes.append(_stack_size_of_this_thread())

    async def one() -> None:
        await call(look)

    await asyncio.gather(*(one() for _ in range(3)))
    return max(sizes, default=0)


def _stack_size_of_this_thread() -> int:
    libc = ctypes.CDLL(None)
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_SIZE)
    thread = ctypes.c_ulong(threading.get_ident())
    if libc.pthread_getattr_np(thread, attributes):
        return 0
    size = ctypes.c_size_t()
    libc.pthread_attr_getstacksize(attributes, ctypes.byref(size))
    libc.pthread_attr_destroy(attributes)
    return size.value
