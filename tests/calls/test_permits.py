"""Calls that wait for a place in their pool: whatever ends the wait, no place is lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import threadlets
from threadlets import Pool
from waiting import eventually

from .harness import Gate, counts

pytestmark = pytest.mark.starts("inline", "beside")


@contextlib.asynccontextmanager
async def _full(pool: Pool) -> AsyncIterator[Gate]:
    """Take the one place of a pool for the block, or until the gate is opened."""
    gate = Gate()
    blocked = asyncio.create_task(pool.call(gate))
    await gate.entered.wait()
    try:
        yield gate
    finally:
        gate.open()
        await blocked


def _begin(call: threadlets.Call[Any]) -> asyncio.Future[None]:
    """Take the first step of a call that has to wait; return the future that it awaits."""
    while (permit := call.send(None)) is None:
        pass  # The step's time slice is used up.
    assert isinstance(permit, asyncio.Future)
    assert not permit.done()
    return permit


async def _admitted(task: asyncio.Task[Any]) -> None:
    """Return when a task's call is admitted, before the task is resumed."""
    permit = task._fut_waiter  # type: ignore[attr-defined]
    while not permit.done():
        await asyncio.sleep(0)
    assert task._fut_waiter is permit  # type: ignore[attr-defined]


async def _use(pool: Pool) -> tuple[int, int, int]:
    """Make a call, for which every other one has to have given its place back."""
    result = await pool.call(int)
    return result, counts(pool)["running"], counts(pool)["queued"]


@pytest.mark.parametrize("how", ["closed", "thrown into", "dropped", "dropped in a cycle"])
@pytest.mark.parametrize("when", ["waiting", "admitted"])
def test_a_call_that_ends_before_it_starts_gives_its_place_back(
    run: Any, when: str, how: str
) -> None:
    """The call is driven by hand, as a coroutine that has its own `__await__` drives it."""
    pool = Pool(limit=1)

    async def main() -> tuple[int, int, int]:
        cycle: list[Any] = []
        async with _full(pool) as gate:
            call = pool.call(bool, cycle)
            permit = _begin(call)
            if when == "admitted":
                gate.open()
                await eventually(permit.done)
            if how == "closed":
                call.close()
            elif how == "thrown into":
                with pytest.raises(ZeroDivisionError):
                    call.throw(ZeroDivisionError())
            elif how == "dropped in a cycle":
                cycle.append(call)
            del call, cycle
            gc.collect()
        assert permit.done()
        return await _use(pool)

    assert (0, 0, 0) == run(main())


@pytest.mark.parametrize("tasks", ["native", "asyncio"])
def test_a_task_that_is_cancelled_as_its_call_is_admitted_gives_the_place_back(
    run: Any, tasks: str
) -> None:
    """The next call gets the place."""
    pool = Pool(limit=1)
    called: list[int] = []

    async def main() -> tuple[int, int, int]:
        async with _full(pool) as gate:
            task = asyncio.get_running_loop().create_task(pool.call(called.append, 1))
            await asyncio.sleep(0)
            after = asyncio.create_task(_use(pool))
            gate.open()
            await _admitted(task)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return await after

    assert (0, 0, 0) == run(main(), tasks=tasks)
    assert [] == called


def test_an_interrupt_as_a_call_is_admitted_ends_the_loop_and_loses_nothing(run: Any) -> None:
    """When the loop runs again, the call starts."""
    pool = Pool(limit=1)

    async def main() -> None:
        async with _full(pool) as gate:
            tasks.append(asyncio.create_task(_use(pool)))
            await asyncio.sleep(0)
            gate.open()
            await _admitted(tasks[0])
            raise KeyboardInterrupt

    tasks: list[asyncio.Task[tuple[int, int, int]]] = []
    with contextlib.closing(threadlets.new_event_loop()) as loop:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(main())
        assert not tasks[0].done()
        assert (0, 0, 0) == loop.run_until_complete(tasks[0])


@pytest.mark.starts("beside")
@pytest.mark.parametrize("waits", [False, True])
def test_a_signal_handler_that_raises_as_a_call_is_queued_takes_no_place_with_it(
    run: Any, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes while debug mode notes where the call is made: for its permit, or its result."""
    pool = Pool(limit=1)

    def handle(_number: int, _frame: FrameType | None) -> None:
        raise ZeroDivisionError

    def extract(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return plain(*args, **kwargs)

    plain = traceback.StackSummary.extract
    before = signal.signal(signal.SIGUSR1, handle)

    async def main() -> tuple[int, int, int]:
        async with _full(pool) if waits else contextlib.nullcontext():
            call = pool.call(int)
            with monkeypatch.context() as patch:
                patch.setattr(traceback.StackSummary, "extract", extract)
                with pytest.raises(ZeroDivisionError):
                    _begin(call)
            assert 0 == counts(pool)["queued"]
        return await _use(pool)

    try:
        assert (0, 0, 0) == run(main(), debug=True)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_closed_loop_gives_the_places_of_its_calls_back(run: Any) -> None:
    """One call waits, and one was admitted and not resumed; another loop can use the pool then."""
    pool = Pool(limit=1)

    async def main() -> None:
        async with _full(pool) as gate:
            tasks.extend(asyncio.create_task(_use(pool)) for _ in range(2))
            await asyncio.sleep(0)
            gate.open()
            await _admitted(tasks[0])
            raise KeyboardInterrupt

    tasks: list[asyncio.Task[tuple[int, int, int]]] = []
    loop = threadlets.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(main())
    assert (1, 1) == pool._counts(loop)[:2]
    with pytest.warns(ResourceWarning):
        loop.close()
    tasks.clear()
    gc.collect()
    assert (0, 0, 0) == run(_use(pool))


@pytest.mark.starts("beside")
def test_a_call_that_waits_for_its_pool_runs_no_python_code_of_the_loop(run: Any) -> None:
    """The wait and the start are native: the only frames are those of the program."""
    pool = Pool(limit=1)
    ours = str(Path(threadlets.__file__).parent)
    frames: list[str] = []

    def profile(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ours):
            frames.append(frame.f_code.co_qualname)

    async def main() -> tuple[int, int, int]:
        async with _full(pool) as gate:
            waiting = [asyncio.create_task(pool.call(int, 0)) for _ in range(3)]
            abandonable = asyncio.create_task(pool.call(int, 0, abandon_on_cancel=True))
            sys.setprofile(profile)
            try:
                await asyncio.sleep(0)
                gate.open()
                await asyncio.gather(*waiting, abandonable)
            finally:
                sys.setprofile(None)
        return await _use(pool)

    assert (0, 0, 0) == run(main())
    assert [] == frames


def test_a_call_goes_on_only_on_the_loop_that_admitted_it() -> None:
    """Otherwise it raises, and gives its place up where it was admitted."""
    pool = Pool("one loop", limit=1)
    called: list[int] = []
    call = pool.call(called.append, 1)

    async def admit() -> None:
        async with _full(pool):
            permit = _begin(call)
        await permit

    async def go_on_elsewhere() -> None:
        with pytest.raises(RuntimeError, match="was awaited on another one"):
            call.send(None)

    async def use() -> None:
        await pool.call(called.append, 2)

    loop = threadlets.new_event_loop()
    try:
        loop.run_until_complete(admit())
        assert 1 == pool.stats()["running"]
        threadlets.run(go_on_elsewhere())
        assert 0 == pool.stats()["running"]
        loop.run_until_complete(use())
    finally:
        loop.close()
    assert [2] == called
