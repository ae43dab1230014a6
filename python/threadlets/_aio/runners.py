"""Entry points: make a loop, or run a coroutine on a new one."""

from __future__ import annotations

import asyncio
import functools
import sys
from asyncio import events
from collections.abc import Awaitable, Coroutine
from typing import Any, Literal, TypeAlias, TypeVar

from threadlets._aio.leaks import LeakPolicy
from threadlets._aio.loop import PREEMPT_MS, FpPolicy, Loop
from threadlets._public import set_module
from threadlets._running import running_dispatcher

T = TypeVar("T")

# The type of a program: from CPython 3.14 on, any awaitable.
if sys.version_info < (3, 14):
    _Main: TypeAlias = Coroutine[Any, Any, T]
else:
    _Main: TypeAlias = Awaitable[T]


@set_module("threadlets")
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
    functions as threadlets. `threads_max` is the maximum number of threads for functions that block
    (4096 unless given); further calls wait. A function that computes inline for longer than
    `preempt_ms` milliseconds shares the CPU with the loop from then on; with None it keeps the loop
    waiting until it returns. `tasks="asyncio"` makes tasks and futures instances of asyncio's own
    classes, which cost more; native ones only pass for them (docs/tasks.md).

    `fp` says what happens when a request leaves the floating-point state of its thread changed: the
    request is counted by name and the state restored ("restore"), and there is a RuntimeWarning
    ("warn"), or an error where failures of that request are reported ("raise"); "off" compares
    nothing. See docs/floating-point.md.

    `leaks` says what `loop.close()` does if requests have not ended or connections are open: it
    reports them in a ResourceWarning, or to the exception handler where warnings are errors
    ("warn"), or raises a LeakError unless another exception is being raised ("raise").

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


@set_module("threadlets")
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
        ValueError: `main` is not a coroutine (before CPython 3.14).
        TypeError: `main` cannot be awaited (since CPython 3.14, which runs any awaitable).
        LeakError: something was outstanding when the loop was closed, and `leaks` is "raise".
        BaseException: whatever `main` raises.
    """
    if events._get_running_loop() is not None:
        # `Runner` would refuse too late: to close its unused loop it has to run a coroutine.
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


@set_module("threadlets")
def stats() -> dict[str, Any]:
    """Return what the running loop's threadlets have done so far, as counts.

    `calls_inline`, `calls_beside`: calls that started inline, or on another thread.
    `mistakes`: inline calls that blocked, or kept the loop waiting for long.
    `threads`, `threads_idle`, `threads_peak`, `threads_max`: numbers of threads.
    `blocked`, `returning`: functions that are blocked or run on other threads, and functions that
    have returned and wait for the role.
    `takeovers_blocked`, `takeovers_computing`, `takeovers_overdue`: take-overs from functions that
    were blocked, computed without the GIL, or computed for too long.
    `returns_at_once`, `returns_granted`: returns without and with a wait for the role.
    `calls_held`, `threads_refused`: calls held for want of a thread, threads refused by the system.

    `monitor` says what notices a blocked function: "idle monitor and timer"; only "timer" where the
    kernel refuses a thread at idle priority; or "not started".

    `functions` lists what is known of each function: its name (`function`), where its next call
    starts (`start`: "inline" or "beside"), how many calls have started there (`inline`, `beside`),
    and its `mistakes`. A function that was called in pools is listed once for each pool.

    Raises:
        RuntimeError: no threadlets loop runs in this thread.
    """
    loop = running_dispatcher("which has no threadlets; use threadlets.run(main())")
    return loop._worker_stats()
