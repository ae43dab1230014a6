"""Scopes under adverse conditions: circles, broken exceptions, blocks whose coroutine is closed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
import threadlets
from threadlets import Scope

from .conftest import Run


async def _ticks(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def _forever() -> None:
    await asyncio.Event().wait()


def test_a_long_chain_of_tasks_is_cancelled(run: Run) -> None:
    """Cancelling the first of any number of tasks that await one another reaches the last."""

    async def main() -> int:
        async def follow(before: Any) -> None:
            await before

        async with Scope() as scope:
            task = scope.start(asyncio.get_running_loop().create_future())
            for _ in range(50_000):
                task = scope.start(follow(task))
            await _ticks(2)
            task.cancel()
            await _ticks(2)
            return int(scope.ledger().waits)

    assert 0 == run(main())


@pytest.mark.parametrize("n", [2, 3, 7])
def test_tasks_that_await_one_another_in_a_circle_are_cancelled(run: Run, n: int) -> None:
    """No task of a circle can end by itself; cancelling the scope ends all of them."""

    async def main() -> list[bool]:
        tasks: list[asyncio.Task[None]] = []

        async def wait_for(index: int) -> None:
            await tasks[(index + 1) % n]

        async with Scope() as scope:
            tasks += [scope.start(wait_for(index)) for index in range(n)]
            await _ticks()
            scope.cancel()
        return [task.cancelled() for task in tasks]

    assert [True] * n == run(main())


def test_a_shield_holds_for_awaited_members(run: Run) -> None:
    """The block awaits a shielded member; cancelling ends the block and leaves the member alone."""

    async def main() -> list[str]:
        log: list[str] = []
        release = asyncio.Event()

        async def careful() -> None:
            async with Scope(shield=True):
                try:
                    await release.wait()
                    log.append("whole")
                except asyncio.CancelledError:
                    log.append("interrupted")
                    raise

        async with Scope() as scope:
            task = scope.start(careful())
            await _ticks()
            asyncio.get_running_loop().call_soon(scope.cancel)
            try:
                await task
            except asyncio.CancelledError:
                log.append("block")
                release.set()
                raise
        return log

    assert ["block", "whole"] == run(main())


def test_a_member_that_was_cancelled_as_a_wait_is_not_cancelled_again(run: Run) -> None:
    """Among thousands of members, one that another one awaits is cancelled once; it can clean up."""

    async def main() -> list[str]:
        log: list[str] = []

        async def last() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                try:
                    await _ticks(50)
                    log.append("clean")
                except asyncio.CancelledError:
                    log.append("interrupted")
                    raise

        async with Scope() as scope:
            for _ in range(3000):
                scope.start(_forever())
            task = scope.start(last())
            await _ticks()
            asyncio.get_running_loop().call_soon(scope.cancel)
            await task
        return log

    assert ["clean"] == run(main())


def test_a_shield_within_a_shield_forgets_no_cancellation(run: Run) -> None:
    """A cancelled scope reaches a member that was shielded twice when the outer shield ends."""

    async def main() -> list[str]:
        log: list[str] = []

        async def member() -> None:
            async with Scope(shield=True):
                await _ticks()
                async with Scope(shield=True):
                    await _ticks()
                log.append("shielded")
            await asyncio.Event().wait()

        async with Scope() as scope:
            scope.start(member())
            await _ticks(2)
            scope.cancel()
        return log

    assert ["shielded"] == run(main())


def test_a_scope_within_a_shield_is_cancelled_when_its_own_shield_is_left(run: Run) -> None:
    """A shield holds off cancellations of the scopes around it, not of those within it."""

    async def main() -> bool:
        async with Scope(shield=True), Scope() as middle:
            async with Scope(shield=True):
                middle.cancel()
                await _ticks()
            await asyncio.Event().wait()
        return middle.cancelled

    assert run(main())


class _Unspeakable(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("there are no words")

    __str__ = __repr__


@pytest.mark.parametrize("fails", ["member", "block"])
def test_an_exception_that_cannot_be_shown_ends_the_scope(run: Run, fails: str) -> None:
    """Members are cancelled with a message that leaves the exception's text out."""

    async def main() -> tuple[int, bool]:
        async def fail() -> None:
            raise _Unspeakable

        try:
            async with Scope() as scope:
                other = scope.start(_forever())
                await _ticks()
                if fails == "member":
                    scope.start(fail())
                    await asyncio.Event().wait()
                await fail()
        except ExceptionGroup as group:
            return len(group.exceptions), other.cancelled()
        raise AssertionError("nothing was raised")

    assert (1, True) == run(main())


def test_a_failed_future_fails_the_scope_that_it_is_started_in(run: Run) -> None:
    """The future may have failed before it was started."""

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(ValueError("early"))
        async with Scope() as scope:
            scope.start(future)

    with pytest.raises(ExceptionGroup) as caught:
        run(main())
    assert ["early"] == [str(error) for error in caught.value.exceptions]


def test_a_future_of_another_loop_is_refused(run: Run) -> None:
    """A scope takes requests of its own loop only."""

    async def main() -> None:
        other = threadlets.new_event_loop()
        try:
            async with Scope() as scope:
                with pytest.raises(RuntimeError, match="of another loop"):
                    scope.start(other.create_future())
        finally:
            other.close()

    run(main())


def test_a_block_that_is_thrown_away_cancels_all_members(run: Run) -> None:
    """More members than one tick cancels are cancelled, although the block is never resumed."""

    async def main() -> tuple[int, int]:
        tasks: list[asyncio.Task[Any]] = []

        async def host() -> None:
            async with Scope() as scope:
                tasks.extend(scope.start(_forever()) for _ in range(2000))
                await asyncio.Event().wait()

        task = asyncio.create_task(host())
        await _ticks()
        task.get_coro().close()
        await _ticks()
        # The future that the task waited for was dropped, so the task has to be cancelled to end.
        task.cancel()
        with pytest.raises((asyncio.CancelledError, RuntimeError)):
            await task
        return sum(it.cancelled() for it in tasks), threadlets.ledger().tasks

    assert (2000, 1) == run(main())


def test_a_scope_thrown_away_at_its_end_cancels_and_forgets_its_waits(run: Run) -> None:
    """The block has ended, its members have not; futures without references leave the ledger."""

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()

        async def host() -> None:
            async with Scope() as scope:
                for _ in range(3):
                    scope.start(loop.create_future())

        task = asyncio.create_task(host())
        await _ticks()
        before = threadlets.ledger().waits
        task.get_coro().close()
        task.cancel()
        with pytest.raises((asyncio.CancelledError, RuntimeError)):
            await task
        gc.collect()
        return before, threadlets.ledger().waits

    assert (3, 0) == run(main())


def test_closing_an_async_generator_waits_for_its_scope(run: Run) -> None:
    """`aclose` ends the block, and the block ends after its requests."""

    async def main() -> list[str]:
        log: list[str] = []

        async def member() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await _ticks()
                log.append("member")

        async def numbers() -> AsyncIterator[int]:
            async with Scope() as scope:
                scope.start(member())
                await _ticks()
                yield 1

        generator = numbers()
        async for _ in generator:
            break
        await generator.aclose()  # type: ignore[attr-defined]
        log.append("closed")
        return log

    assert ["member", "closed"] == run(main())


def test_a_cancellation_from_outside_is_not_taken_back_with_the_scopes_own(run: Run) -> None:
    """It comes in the tick in which the scope takes its own unseen cancellation back."""

    async def main() -> list[str]:
        log: list[str] = []

        async def host() -> None:
            async with Scope() as scope:
                asyncio.get_running_loop().call_soon(task.cancel)
                scope.cancel()
            log.append("left")
            await asyncio.sleep(0)
            log.append("went on")

        task = asyncio.create_task(host())
        await asyncio.wait([task])
        return [*log, str(task.cancelled())]

    assert "went on" not in run(main())


def test_a_cancellation_from_before_the_block_is_not_taken_for_the_scopes_own(run: Run) -> None:
    """The task was cancelled before, and the cancellation was not delivered yet."""

    async def main() -> bool:
        async def host() -> None:
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            async with Scope() as scope:
                scope.cancel()
                await asyncio.sleep(0)

        task = asyncio.create_task(host())
        await asyncio.wait([task])
        return task.cancelled()

    assert run(main())


def test_the_first_cancel_after_a_failure_leaves_the_block_alone(run: Run) -> None:
    """A block that cleans up because a member failed is not interrupted."""

    async def main() -> list[str]:
        log: list[str] = []

        async def fail() -> None:
            raise ValueError

        try:
            async with Scope() as scope:
                scope.start(fail())
                try:
                    await asyncio.Event().wait()
                finally:
                    asyncio.get_running_loop().call_soon(scope.cancel)
                    await _ticks()
                    log.append("clean")
        except ExceptionGroup:
            log.append("failed")
        return log

    assert ["clean", "failed"] == run(main())


def test_a_deadline_of_a_closed_scope_starts_no_timer(run: Run) -> None:
    """A closed scope has nothing left to cancel."""

    async def main() -> tuple[int, int]:
        before = threadlets.ledger().timers
        async with Scope() as scope:
            pass
        scope.deadline = asyncio.get_running_loop().time() + 100
        return before, threadlets.ledger().timers

    before, after = run(main())
    assert before == after


@pytest.mark.parametrize("limit", ["deadline", "timeout"])
def test_a_limit_that_is_no_number_is_refused(limit: str) -> None:
    """The error is raised when the scope is made."""
    with pytest.raises(ValueError, match="NaN"):
        Scope(**{limit: float("nan")})


def test_a_deadline_that_is_set_replaces_the_time_out(run: Run) -> None:
    """The limit that was set last counts, also before the scope is entered."""

    async def main() -> float | None:
        scope = Scope(timeout=0.0)
        scope.deadline = None
        async with scope:
            await asyncio.sleep(0.01)
        return scope.deadline

    assert run(main()) is None


def test_drains_that_time_out_leave_nothing(run: Run) -> None:
    """Draining with a time-out again and again takes no memory."""

    async def main() -> int:
        waiting = weakref.WeakSet[Any]()
        async with Scope() as scope:
            release = scope.start(asyncio.get_running_loop().create_future())
            for _ in range(50):
                with pytest.raises(threadlets.DrainTimeoutError):
                    await scope.drain(0)
                waiting.update(it for it in gc.get_objects() if type(it) is type(release))
            gc.collect()
            n_futures = len(waiting)
            release.set_result(None)
        return n_futures

    assert run(main()) < 20


def test_what_refuses_to_be_cancelled_does_not_keep_the_others_from_it(run: Run) -> None:
    """Its error is reported, and every other member is cancelled."""

    class Stubborn(asyncio.Future[None]):
        def cancel(self, msg: Any = None) -> bool:
            raise ValueError("no")

    async def main() -> tuple[list[str], bool]:
        loop = asyncio.get_running_loop()
        reported: list[str] = []
        loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))
        stubborn = Stubborn(loop=loop)

        async def wait() -> None:
            await stubborn

        async with Scope() as scope:
            scope.start(wait())
            other = scope.start(_forever())
            await _ticks()
            scope.cancel()
            try:
                await other
            finally:
                stubborn.set_result(None)
        return reported, other.cancelled()

    assert (["no"], True) == run(main())


def test_a_closed_loop_without_references_takes_its_scopes_along() -> None:
    """A scope that was never left keeps neither its task nor its loop alive."""

    async def host() -> None:
        async with Scope() as scope:
            scope.start(_forever())
            await asyncio.Event().wait()

    loop = threadlets.new_event_loop()
    task = weakref.ref(loop.create_task(host()))
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    with pytest.warns(ResourceWarning):
        loop.close()
    seen = weakref.ref(loop)
    loop.set_exception_handler(lambda _loop, _context: None)
    del loop
    gc.collect()
    gc.collect()
    assert (None, None) == (seen(), task())


def test_a_time_out_that_has_seen_to_its_cancellation_leaves_none(run: Run) -> None:
    """An inner scope raises its members' exceptions instead of the time-out's cancellation."""

    async def main() -> str:
        async def fail_late() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError

        try:
            async with asyncio.timeout(0):
                try:
                    async with Scope() as scope:
                        scope.start(fail_late())
                except ExceptionGroup:
                    pass
        except TimeoutError:
            return "late"
        await asyncio.sleep(0)
        return "went on"

    assert run(main()) in ("late", "went on")


def test_what_a_block_raises_is_not_lost_to_a_cancellation(run: Run) -> None:
    """The block has failed before the task is cancelled while the scope waits for its requests."""

    async def main() -> list[str]:
        async def clean_up() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await _ticks()

        async def host() -> None:
            async with Scope() as scope:
                scope.start(clean_up())
                await _ticks()
                raise ValueError("the block")

        task = asyncio.create_task(host())
        await _ticks(8)
        task.cancel()
        await asyncio.wait([task])
        error = task.exception()
        assert isinstance(error, ExceptionGroup)
        return [str(it) for it in error.exceptions]

    assert ["the block"] == run(main())


def test_cancelling_the_scope_around_again_reaches_a_block_that_is_cancelled_itself(
    run: Run,
) -> None:
    """The inner scope was entered while cleaning up, and takes back its own cancellation only."""

    async def main() -> list[str]:
        log: list[str] = []
        async with Scope() as outer:
            outer.cancel()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                async with Scope() as inner:
                    inner.cancel()
                    outer.cancel()
                    await asyncio.Event().wait()
                log.append("went on")
        task = asyncio.current_task()
        assert task is not None
        return [*log, str(task.cancelling())]

    assert ["0"] == run(main())


def test_a_failed_future_that_is_started_again_is_one_failure(run: Run) -> None:
    """A future is one request, however often it is started."""

    async def main() -> None:
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(ValueError("once"))
        async with Scope() as scope:
            scope.start(failed)
            scope.start(failed)

    with pytest.raises(ExceptionGroup) as caught:
        run(main())
    assert 1 == len(caught.value.exceptions)


def test_a_deadline_that_is_no_number_is_refused_when_it_is_changed(run: Run) -> None:
    """The deadline of before stays."""

    async def main() -> float | None:
        async with Scope(5.0) as scope:
            with pytest.raises(ValueError, match="NaN"):
                scope.deadline = float("nan")
            scope.cancel()
        return scope.deadline

    assert 5.0 == run(main())


def test_a_cancellation_behind_an_error_is_seen_once_more(run: Run) -> None:
    """Code that catches the group is cancelled at the next await, as with asyncio's group on 3.13."""

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError

    async def main() -> tuple[list[str], bool]:
        seen: list[str] = []

        async def host() -> None:
            try:
                async with Scope() as scope:
                    scope.start(fails_when_cancelled())
                    await asyncio.sleep(60)
            except* ValueError:
                seen.append("group")
            await asyncio.sleep(0)
            seen.append("not cancelled")

        task = asyncio.create_task(host())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return seen, task.cancelled()

    assert (["group"], True) == run(main())
