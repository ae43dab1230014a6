"""The promises of a scope, one by one."""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
import threadlets
from threadlets import DrainTimeoutError, Ledger, Scope, syslet
from threadlets.atoms import timeout
from waiting import eventually

from .conftest import Run


@syslet
def _wait(seconds):
    yield timeout(seconds)


async def _forever() -> None:
    await asyncio.Event().wait()


async def _ticks(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def _fail(error: BaseException) -> None:
    raise error


# -- starting ------------------------------------------------------------------------------------


def test_a_scope_starts_whatever_can_be_called_or_awaited(run: Run) -> None:
    """Each request gives its result."""

    class Later:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "awaitable"

    async def echo(value: str) -> str:
        return value

    async def main() -> list[Any]:
        done = asyncio.get_running_loop().create_future()
        done.set_result("done")
        later = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(later.set_result, "later")
        async with Scope() as scope:
            started = [
                scope.start(echo("coroutine")),
                scope.start(echo, "function"),
                scope.start(functools.partial(echo, "partial")),
                scope.start(str.upper, "called"),
                scope.start(threadlets.call(str.upper, "call")),
                scope.start(threadlets.threadlet(str.upper), "threadlet"),
                scope.start(Later()),
                scope.start(done),
                scope.start(later),
                scope.start(asyncio.create_task(echo("task"))),
            ]
            waits = [scope.start(threadlets.sleep(0)), scope.start(_wait, 0)]
        assert all(it.done() for it in waits)
        return [it.result() for it in started]

    names = ["coroutine", "function", "partial", "CALLED", "CALL", "THREADLET"]
    assert [*names, "awaitable", "done", "later", "task"] == run(main())


def test_what_can_be_neither_called_nor_awaited_is_refused(run: Run) -> None:
    """Arguments for a request that has its own are refused, too."""

    async def main() -> None:
        async with Scope() as scope:
            with pytest.raises(TypeError, match="42 is none of them"):
                scope.start(42)  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="has its arguments already"):
                scope.start(_forever(), 1)  # type: ignore[call-overload]
            with pytest.raises(TypeError, match="has its arguments already"):
                scope.start(threadlets.sleep(0), 1)  # type: ignore[call-overload]

    run(main())


def test_requests_are_started_inside_of_the_block_only(run: Run) -> None:
    """A coroutine that is refused is closed, so no warning says that it was never awaited."""

    async def main() -> None:
        scope = Scope(name="mine")
        with pytest.raises(RuntimeError, match="was not entered"):
            scope.start(_forever())
        with pytest.raises(RuntimeError, match="nothing to cancel"):
            scope.cancel()
        async with scope:
            pass
        with pytest.raises(RuntimeError, match="has ended"):
            scope.start(_forever())
        with pytest.raises(RuntimeError, match="for one block"):
            async with scope:
                pass
        scope.cancel("too late")
        assert not scope.cancelled

    run(main())


def test_a_future_is_one_request(run: Run) -> None:
    """A future cannot be started in two scopes."""

    async def main() -> None:
        async with Scope() as scope:
            wait = scope.start(threadlets.sleep(0))
            with pytest.raises(RuntimeError, match="belongs to a scope already"):
                scope.start(wait)

    run(main())


def test_a_scope_needs_a_loop_of_ours() -> None:
    """The error says what to do."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"threadlets\.run"):
            async with Scope():
                pass

    asyncio.run(main())
    with pytest.raises(ValueError, match="not both"):
        Scope(1.0, timeout=1.0)


# -- cancelling ----------------------------------------------------------------------------------


def test_a_scope_that_was_cancelled_by_itself_ends_without_an_exception(run: Run) -> None:
    """Its requests and those of scopes within it are cancelled, each with the reason."""

    async def main() -> tuple[list[str], str | None, int]:
        reasons: list[str] = []

        async def member() -> None:
            try:
                await _forever()
            except asyncio.CancelledError as error:
                reasons.append(str(error))
                raise

        async def host() -> None:
            async with Scope() as inner:
                inner.start(member())

        async with Scope(name="work") as scope:
            scope.start(member())
            scope.start(host())
            await _ticks()
            scope.cancel("enough")
            await _forever()
        task = asyncio.current_task()
        assert task is not None
        return reasons, scope.reason, task.cancelling()

    reason = "scope 'work' was cancelled: enough"
    assert ([reason, reason], "enough", 0) == run(main())


def test_what_is_started_in_a_cancelled_scope_is_cancelled_at_once(run: Run) -> None:
    """A request that is started in a cancelled scope never begins."""

    async def main() -> list[bool]:
        async with Scope() as scope:
            scope.cancel()
            started = [
                scope.start(_forever()),
                scope.start(threadlets.sleep(60)),
                scope.start(_wait, 60),
                scope.start(time.sleep, 60),
            ]
        return [it.cancelled() for it in started]

    assert [True] * 4 == run(main())


def test_cancelling_again_interrupts_again(run: Run) -> None:
    """A second cancellation interrupts a clean-up; a first one does not."""

    async def main() -> list[int]:
        seen: list[int] = []

        async def stubborn(number: int) -> None:
            for _ in range(3):
                try:
                    await _ticks(20)
                    return
                except asyncio.CancelledError:
                    seen.append(number)

        for n_cancels in (1, 2):
            async with Scope() as scope:
                scope.start(stubborn(n_cancels))
                await _ticks(2)
                scope.cancel()
                try:
                    await _ticks(2)
                finally:
                    if n_cancels == 2:
                        await _ticks(2)
                        scope.cancel()
        return seen

    assert [1, 2, 2] == run(main())


@pytest.mark.parametrize("way", ["done callback", "thread"])
def test_a_scope_is_cancelled_from_wherever_the_loop_calls(run: Run, way: str) -> None:
    """A done callback can cancel a scope, and so can a callback that another thread has scheduled."""

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        async with Scope() as scope:
            if way == "thread":
                scope.start(loop.call_soon_threadsafe, scope.cancel)
            else:
                scope.start(asyncio.sleep(0)).add_done_callback(lambda _: scope.cancel())
            await _forever()
        return scope.cancelled

    assert run(main())


def test_a_hundred_thousand_members_are_cancelled_while_the_loop_goes_on(run: Run) -> None:
    """No tick takes long, and all members have ended when the scope has."""

    async def main() -> tuple[int, float]:
        gaps: list[float] = []

        async def watch() -> None:
            last = time.perf_counter()
            while True:
                await asyncio.sleep(0)
                gaps.append((now := time.perf_counter()) - last)
                last = now

        async with Scope() as scope:
            tasks = [scope.start(_forever()) for _ in range(100_000)]
            await _ticks(2)
            watcher = asyncio.create_task(watch())
            await _ticks(2)
            scope.cancel()
        watcher.cancel()
        return sum(task.cancelled() for task in tasks), max(gaps)

    # A pass of the collector over so many objects takes longer than all of this.
    gc.disable()
    try:
        n_cancelled, gap_s = run(main())
    finally:
        gc.enable()
    assert 100_000 == n_cancelled
    assert gap_s < 0.5


# -- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["timeout", "deadline", "set", "past"])
def test_a_deadline_cancels_the_scope_and_raises(run: Run, how: str) -> None:
    """The deadline may be a time-out, a time, or set later; one that has passed cancels at once."""

    async def main() -> tuple[bool, int]:
        now = asyncio.get_running_loop().time()
        scope = {
            "timeout": lambda: Scope(timeout=0.001),
            "deadline": lambda: Scope(now + 0.001),
            "set": lambda: Scope(timeout=60),
            "past": lambda: Scope(now - 1),
        }[how]()
        with pytest.raises(TimeoutError, match="has passed"):  # noqa: PT012 - the scope raises
            async with scope:
                if how == "set":
                    scope.deadline = now
                await _forever()
        task = asyncio.current_task()
        assert task is not None
        return scope.cancelled, task.cancelling()

    assert (True, 0) == run(main())


def test_a_deadline_that_is_taken_back_does_not_pass(run: Run) -> None:
    """Its timer is removed as well."""

    async def main() -> tuple[bool, int]:
        before = threadlets.ledger().timers
        async with Scope(timeout=0.001) as scope:
            scope.deadline = None
            await asyncio.sleep(0.01)
        return scope.cancelled, threadlets.ledger().timers - before

    assert (False, 0) == run(main())


# -- failures ------------------------------------------------------------------------------------


def test_failures_of_members_and_block_come_together(run: Run) -> None:
    """The group has exactly the exceptions that were raised; all else is cancelled."""

    async def main() -> tuple[list[str], bool]:
        try:
            async with Scope() as scope:
                other = scope.start(_forever())
                scope.start(_fail(KeyError("member")))
                try:
                    await _forever()
                finally:
                    raise ValueError("block")
        except ExceptionGroup as group:
            return sorted(type(it).__name__ for it in group.exceptions), other.cancelled()
        raise AssertionError

    assert (["KeyError", "ValueError"], True) == run(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_member_ends_the_loop(kind: type[BaseException]) -> None:
    """The exception is raised as it is, and the scope's members are cancelled."""
    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        async with Scope() as scope:
            tasks.append(scope.start(_forever()))
            await _ticks()
            scope.start(_fail(kind()))
            await _forever()

    with pytest.raises(kind):
        threadlets.run(main())
    assert tasks[0].cancelled()


def test_requests_end_before_the_block_does(run: Run) -> None:
    """This holds for an async generator as well, whether it is closed or fails."""

    async def main() -> list[str]:
        log: list[str] = []

        async def member() -> None:
            try:
                await _forever()
            finally:
                await _ticks()
                log.append("member")

        async def numbers() -> AsyncIterator[int]:
            async with Scope() as scope:
                scope.start(member())
                await _ticks()
                yield 1

        for ends in ("aclose", "athrow"):
            generator: Any = numbers()
            await anext(generator)
            if ends == "aclose":
                await generator.aclose()
            else:
                with pytest.raises(ExceptionGroup):
                    await generator.athrow(ValueError)
            log.append(ends)
        return log

    assert ["member", "aclose", "member", "athrow"] == run(main())


# -- draining ------------------------------------------------------------------------------------


def test_draining_waits_for_all_within(run: Run) -> None:
    """Requests of scopes in other tasks count as well; the scope can be used afterwards."""

    async def main() -> Ledger:
        async def host() -> None:
            async with Scope() as inner:
                inner.start(_ticks(10))

        async with Scope() as scope:
            scope.start(host())
            await _ticks(2)
            await scope.drain()
            found = scope.ledger()
            scope.start(_ticks())
        return found

    assert Ledger() == run(main())


def test_a_drain_that_takes_too_long_names_blocked_functions(run: Run) -> None:
    """The error has the blocked function's name, thread and stack."""

    def wait_for_the_gate() -> None:
        gate.wait(20)

    gate = threading.Event()

    async def main() -> DrainTimeoutError:
        async with Scope(name="work") as scope:
            scope.start(wait_for_the_gate)
            await eventually(lambda: threadlets.ledger().blocked)
            with pytest.raises(DrainTimeoutError) as caught:
                await scope.drain(0.01)
            gate.set()
            await scope.drain(10)
        return caught.value

    error = run(main())
    (blocked,) = error.blocked
    assert blocked.name.endswith("wait_for_the_gate")
    assert "gate.wait(20)" in blocked.stack
    assert "wait_for_the_gate" in str(error)
    assert "'work'" in str(error)


def test_a_scope_shows_its_name_and_its_state(run: Run) -> None:
    """The repr tells new, open, cancelled (with the reason) and closed scopes apart."""

    async def main() -> list[str]:
        scope = Scope(name="it")
        shown = [repr(scope), repr(Scope())]
        async with scope:
            shown.append(repr(scope))
            scope.cancel("why")
            shown.append(repr(scope))
        return [*shown, repr(scope)]

    assert [
        "<Scope 'it' new>",
        "<Scope new>",
        "<Scope 'it' open>",
        "<Scope 'it' cancelled: why>",
        "<Scope 'it' closed>",
    ] == run(main())


# -- among others --------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", ["native", "asyncio"])
def test_asyncios_own_time_outs_and_groups_nest_with_scopes(run: Run, tasks: str) -> None:
    """Each takes back its own cancellation and no other."""

    async def main() -> int:
        with pytest.raises(TimeoutError):  # noqa: PT012 - it is the time-out that raises
            async with asyncio.timeout(0.001), Scope() as scope:
                scope.start(_forever())
                await _forever()
        async with Scope() as scope:
            asyncio.get_running_loop().call_soon(scope.cancel)
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(_forever())
        async with asyncio.TaskGroup() as group, Scope() as scope:
            group.create_task(_ticks())
            scope.start(_forever())
            scope.cancel()
        with pytest.raises(ExceptionGroup):  # noqa: PT012 - it is the group that raises
            async with asyncio.TaskGroup() as group, Scope() as scope:
                scope.start(_forever())
                group.create_task(_fail(ValueError()))
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert 0 == run(main(), tasks=tasks)


def test_anyios_scopes_nest_with_ours(run: Run) -> None:
    """In either order of nesting, whichever scope is cancelled, no cancellation is left over."""

    async def main() -> tuple[list[str], int]:
        log: list[str] = []
        with anyio.CancelScope() as outer:
            async with Scope() as scope:
                scope.start(_forever())
                outer.cancel()
                await _forever()
            log.append("not reached")
        async with Scope() as scope:
            with anyio.CancelScope() as inner:
                inner.cancel()
                await anyio.sleep(60)
            log.append("inner")
        async with Scope() as scope:
            asyncio.get_running_loop().call_soon(scope.cancel)
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 60)
            log.append("not reached")
        async with anyio.create_task_group() as group, Scope() as scope:
            scope.start(_forever())
            group.cancel_scope.cancel()
            await anyio.sleep(60)
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)
        return log, task.cancelling()

    assert (["inner"], 0) == run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks_are_hosts_as_others_are(run: Run) -> None:
    """Eager tasks enter scopes on the stack of the code that makes them."""

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]

        async def host() -> None:
            async with Scope() as scope:
                scope.start(_ticks())

        task = asyncio.create_task(host())
        await task
        return task.done()

    assert run(main())


@pytest.mark.parametrize(
    "wait", [lambda: threadlets.sleep(60), lambda: asyncio.get_running_loop().create_future()]
)
def test_a_wait_is_cancelled_without_a_task(run: Run, wait: Callable[[], Awaitable[Any]]) -> None:
    """The request counts as a wait, and its awaiter gets the cancellation."""

    async def main() -> tuple[int, int, bool]:
        async with Scope() as scope:
            started = scope.start(wait())
            found = scope.ledger()
            scope.cancel()
        return found.tasks, found.waits, started.cancelled()

    assert (0, 1, True) == run(main())


@pytest.mark.parametrize("delay", [-1.0, 0.0, 1e-4, 5e-324])
def test_a_sleep_ends_with_none(run: Run, delay: float) -> None:
    """A short sleep ends as well; a negative one ends at once."""

    async def main() -> None:
        return await threadlets.sleep(delay)  # type: ignore[no-any-return]

    assert run(main()) is None


def test_a_sleep_for_ever_is_no_error(run: Run) -> None:
    """An infinite sleep can be cancelled; NaN is refused."""

    async def main() -> int:
        with pytest.raises(ValueError, match="NaN"):
            threadlets.sleep(float("nan"))
        async with Scope() as scope:
            scope.start(threadlets.sleep(float("inf")))
            scope.start(threadlets.sleep(1e300))
            await _ticks()
            scope.cancel()
        return int(threadlets.ledger().waits)

    assert 0 == run(main())


def test_a_kind_of_request_that_there_is_not_is_refused(run: Run) -> None:
    """An unknown kind is not taken for a task."""

    async def main() -> None:
        async with threadlets.Scope() as scope:
            coroutine = asyncio.sleep(0)
            with pytest.raises(ValueError, match='no kind "tusk"'):
                scope._members.start_task(coroutine, "tusk", None)  # type: ignore[attr-defined]
            coroutine.close()

    run(main())
