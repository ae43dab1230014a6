"""anyio's cancel scopes and task groups nest with asyncio's timeouts and groups, either way round."""

from __future__ import annotations

import asyncio

import anyio
from waiting import eventually

from .harness import Run


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def n_requests() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def test_a_scope_inside_a_limit(run: Run) -> None:
    """The scope ends its own block, and leaves the timeout and the count of cancellations alone."""

    async def main() -> tuple[bool, int]:
        async with asyncio.timeout(60):
            with anyio.move_on_after(0.01) as scope:
                await forever()
            await asyncio.sleep(0)
        return scope.cancelled_caught, n_requests()

    assert (True, 0) == run(main())


def test_a_limit_inside_a_scope(run: Run) -> None:
    """The timeout ends its own block, and the scope around it is not cancelled."""

    async def main() -> tuple[str, bool, int]:
        with anyio.move_on_after(60) as scope:
            try:
                async with asyncio.timeout(0.01):
                    await forever()
            except TimeoutError:
                ended = "limit"
            await asyncio.sleep(0)
        return ended, scope.cancelled_caught, n_requests()

    assert ("limit", False, 0) == run(main())


def test_a_group_inside_an_anyio_group(run: Run) -> None:
    """Cancelling the outer scope cancels the tasks of both groups."""

    async def main() -> tuple[list[str], int]:
        begun: list[str] = []
        told: list[str] = []

        async def waits(name: str) -> None:
            begun.append(name)
            try:
                await forever()
            except asyncio.CancelledError:
                told.append(name)
                raise

        async with anyio.create_task_group() as outer:
            outer.start_soon(waits, "outer")
            outer.start_soon(cancel_when_both_wait, outer, begun)
            async with asyncio.TaskGroup() as inner:
                inner.create_task(waits("inner"))
                await forever()
        return sorted(told), n_requests()

    async def cancel_when_both_wait(group: anyio.abc.TaskGroup, begun: list[str]) -> None:
        await eventually(lambda: len(begun) == 2)
        group.cancel_scope.cancel()

    assert (["inner", "outer"], 0) == run(main())


def test_an_anyio_group_inside_a_group(run: Run) -> None:
    """A failure in the outer group cancels the tasks of both."""

    async def main() -> tuple[list[str], list[str], int]:
        begun = asyncio.Event()
        told: list[str] = []

        async def waits() -> None:
            begun.set()
            try:
                await forever()
            except asyncio.CancelledError:
                told.append("inner")
                raise

        async def fails() -> None:
            await begun.wait()
            raise KeyError("x")

        async def nested() -> None:
            async with asyncio.TaskGroup() as outer:
                outer.create_task(fails())
                async with anyio.create_task_group() as inner:
                    inner.start_soon(waits)
                    await forever()

        try:
            await nested()
        except* KeyError as group:
            errors = [repr(it) for it in group.exceptions]
        return told, errors, n_requests()

    assert (["inner"], ["KeyError('x')"], 0) == run(main())


def test_a_shielded_scope_outlives_its_parent(run: Run) -> None:
    """A shielded block ends before the cancellation of the scope around it arrives."""

    async def main() -> list[str]:
        ran: list[str] = []
        with anyio.CancelScope() as outer:
            outer.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.01)
                ran.append("shielded")
            await asyncio.sleep(0)
            ran.append("not reached")
        return ran

    assert ["shielded"] == run(main())
