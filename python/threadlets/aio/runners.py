"""Entry points: make a loop, or run a coroutine on a new one."""

from __future__ import annotations

import asyncio
import functools
import sys
from asyncio import events
from collections.abc import Awaitable, Coroutine
from typing import Any, Literal, TypeAlias, TypeVar

from threadlets.aio.loop import PREEMPT_MS, FpPolicy, Loop
from threadlets.running import running_dispatcher
from threadlets.scopes.leaks import LeakPolicy

T = TypeVar("T")

# What a program can be.
if sys.version_info < (3, 14):
    _Main: TypeAlias = Coroutine[Any, Any, T]
else:
    _Main: TypeAlias = Awaitable[T]


def new_event_loop(
    *,
    executor: Literal["threads", "threadlets"] = "threads",
    threads_max: int | None = None,
    preempt_ms: float | None = PREEMPT_MS,
    tasks: Literal["native", "asyncio"] = "native",
    fp: FpPolicy = "restore",
    leaks: LeakPolicy = "warn",
) -> Loop:
    """Make a new event loop, for `asyncio.Runner(loop_factory=threadlets.new_event_loop)`.

    `executor="threadlets"` makes `asyncio.to_thread` and `loop.run_in_executor(None, …)` call
    functions as threadlets. `threads_max` is how many threads there may be for functions that
    block (4096 unless given); calls beyond wait. A function that computes where it was awaited for longer than
    `preempt_ms` milliseconds shares the CPU with the loop from then on; None: it keeps the loop
    waiting until it returns. `tasks="asyncio"` makes tasks and futures instances of asyncio's own
    classes, which cost more; native ones only pass for them (docs/tasks.md).

    `fp` says what happens to a request that leaves the floating-point state of its thread changed: its
    name is counted and the state put back ("restore"), with a RuntimeWarning ("warn") or an error where
    failures of that request are reported ("raise"); "off" compares nothing. See docs/floating-point.md.

    `leaks` says what `loop.close()` does where requests have not ended or connections are open: it reports
    them in a ResourceWarning, or to the exception handler where warnings are errors ("warn"), or raises a
    LeakError ("raise") unless another exception is on its way.

    Raises:
        OSError: the process has no descriptors left; raise its limit (`ulimit -n`).
        ValueError: an argument is out of range.
    """
    return Loop(
        executor=executor,
        threads_max=threads_max,
        preempt_ms=preempt_ms,
        tasks=tasks,
        fp=fp,
        leaks=leaks,
    )


def run(
    main: _Main[T],
    *,
    debug: bool | None = None,
    executor: Literal["threads", "threadlets"] = "threads",
    threads_max: int | None = None,
    preempt_ms: float | None = PREEMPT_MS,
    tasks: Literal["native", "asyncio"] = "native",
    fp: FpPolicy = "restore",
    leaks: LeakPolicy = "warn",
) -> T:
    """Run the coroutine `main` on a new loop and return its result, like `asyncio.run`.

    The loop is closed afterwards: tasks that are left are cancelled, async generators and the
    default executor are shut down. `debug` switches asyncio's debug mode on or off; None leaves
    it to PYTHONASYNCIODEBUG and `python -X dev`. The other arguments are those of
    `new_event_loop`.

    Raises:
        RuntimeError: a loop is running in this thread already.
        ValueError: `main` is not a coroutine. Since CPython 3.14 whatever can be awaited is run, and
            anything else a TypeError.
        LeakError: something was left when the loop was closed, and `leaks` is "raise".
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
    loop_factory = functools.partial(
        new_event_loop,
        executor=executor,
        threads_max=threads_max,
        preempt_ms=preempt_ms,
        tasks=tasks,
        fp=fp,
        leaks=leaks,
    )
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)


def stats() -> dict[str, Any]:
    """Say what the running loop's threadlets have done so far.

    Counts: `calls_inline` and `calls_beside`, which started where they were awaited, or on another thread;
    `mistakes`, calls that were inline and blocked, or kept the loop waiting for long; `threads`, `threads_idle`,
    `threads_peak`, `threads_max`; `blocked`, functions that are blocked or run on other threads, and `returning`
    ones; take-overs from functions that were blocked, computed without the GIL, or computed for too long
    (`takeovers_blocked`, `takeovers_computing`, `takeovers_overdue`); returns with and without a wait
    (`returns_at_once`, `returns_granted`); `calls_held` for want of a thread, `threads_refused` by the system.
    `watcher` says what notices a blocked function: "sentinel and timer", or "timer" where the kernel refuses a
    thread at idle priority. `functions` is a list of what is known of each function: its name (`function`), where
    its next call starts (`start`, "inline" or "beside"), how many have (`inline`, `beside`), and its `mistakes`.
    Those that were called in a pool are there once for each pool.

    Raises:
        RuntimeError: no threadlets loop runs in this thread.
    """
    loop = running_dispatcher("which has no threadlets; use threadlets.run(main())")
    return loop._worker_stats()
