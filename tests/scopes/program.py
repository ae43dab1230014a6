"""Run a random program of scopes, and check every claim about it.

A claim that does not hold is returned as a sentence.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from typing import Any

import threadlets
from threadlets import BufferPool, Pool, Scope, syslet
from threadlets.atoms import timeout
from threadlets.testing import use_engine

from .strategies import Case, Plan, Step

_N_TICKS = 14
_STUCK_S = 10.0


@syslet
def _wait(seconds):
    yield timeout(seconds)


class Planned(Exception):
    """An exception that a program raises on purpose."""


class _Record:
    """A scope of the program, with its requests and the exception of its block."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.requests: list[Any] = []
        self.block_error: BaseException | None = None


class _Actor:
    """A running coroutine of the program."""

    def __init__(self, record: _Record | None, number: int) -> None:
        self.number = number
        self.records = [] if record is None else [record]
        self.started: list[int] = []
        self.cleaned: list[int] = []
        self.is_running = True
        # Whether it was given the CancelledError of another request that it awaited.
        self.has_awaited_cancelled = False


class Program:
    """One run of one case on the running loop."""

    def __init__(self, case: Case, pool: Pool) -> None:
        self._case = case
        self._loop = asyncio.get_running_loop()
        self._call = threadlets.threadlet(pool=pool)(self._block)
        self._pool = pool
        self._gate = threading.Event()
        self._actors: list[_Actor] = []
        self._records: list[_Record] = []
        self._requests: list[asyncio.Future[Any]] = []
        self._n_started = 0
        # Requests are numbered, and each awaits only those that started after it: a circle of hosts
        # and of requests that await them would never end, as in asyncio.
        self._numbers: dict[asyncio.Future[Any], int] = {}
        self._n_done: dict[asyncio.Future[Any], int] = {}
        self._futures = [self._loop.create_future() for _ in range(4)]
        self._n_cancels_of_host = 0
        self._violations: list[str] = []
        self._reported: list[Any] = []

    # -- what coroutines do ----------------------------------------------------------------------

    def _act(self, plan: Plan, record: _Record | None) -> Any:
        self._n_started += 1
        return self._go(plan, _Actor(record, self._n_started))

    async def _go(self, plan: Plan, actor: _Actor) -> None:
        self._actors.append(actor)
        try:
            with contextlib.ExitStack() as stack:
                for number in range(plan.n_cleanups):
                    actor.started.append(number)
                    stack.callback(actor.cleaned.append, number)
                try:
                    await self._go_through(plan.steps, actor)
                except asyncio.CancelledError:
                    if plan.when_cancelled == "ends":
                        raise
                    for _ in range(plan.n_turns_of_cleanup):
                        await asyncio.sleep(0)
                    if plan.when_cancelled == "fails":
                        raise Planned("in clean-up") from None
                    if plan.when_cancelled == "cleans up":
                        raise
        finally:
            actor.is_running = False

    async def _go_through(self, steps: list[Step], actor: _Actor) -> None:
        for step in steps:
            await getattr(self, f"_{step.kind.replace(' ', '_')}")(step, actor)

    async def _ticks(self, step: Step, actor: _Actor) -> None:
        for _ in range(step.n):
            await asyncio.sleep(0)

    async def _sleep(self, step: Step, actor: _Actor) -> None:
        await threadlets.sleep(step.n / 1e6)

    async def _future(self, step: Step, actor: _Actor) -> None:
        await self._await_other(asyncio.shield(self._futures[step.n]), actor)

    async def _fail(self, step: Step, actor: _Actor) -> None:
        raise Planned("on purpose")

    async def _await(self, step: Step, actor: _Actor) -> None:
        if not self._requests:
            return
        request = self._requests[step.n % len(self._requests)]
        if self._numbers[request] <= actor.number:
            return
        with contextlib.suppress(Exception):
            await self._await_other(request, actor)

    async def _await_other(self, other: asyncio.Future[Any], actor: _Actor) -> None:
        try:
            await other
        except asyncio.CancelledError:
            actor.has_awaited_cancelled |= other.cancelled()
            raise

    async def _cancel_scope(self, step: Step, actor: _Actor) -> None:
        if self._records:
            self._records[step.n % len(self._records)].scope.cancel("by a member")

    async def _cancel_request(self, step: Step, actor: _Actor) -> None:
        if self._requests:
            self._requests[step.n % len(self._requests)].cancel()

    async def _drain(self, step: Step, actor: _Actor) -> None:
        if not actor.records or actor.records[-1].scope._host is not asyncio.current_task():
            return
        with contextlib.suppress(threadlets.DrainTimeoutError):
            await actor.records[-1].scope.drain(0.0002)

    async def _start(self, step: Step, actor: _Actor) -> None:
        if record := self._open_record(actor):
            assert step.plan is not None
            coroutine = self._act(step.plan, record)
            number = self._n_started
            self._started(record, record.scope.start(coroutine), number)

    async def _start_sleep(self, step: Step, actor: _Actor) -> None:
        if record := self._open_record(actor):
            self._started(record, record.scope.start(threadlets.sleep((0, 1e-4, 5e-4, 60)[step.n])))

    async def _start_future(self, step: Step, actor: _Actor) -> None:
        if record := self._open_record(actor):
            with contextlib.suppress(RuntimeError):  # The future may belong to another scope.
                self._started(record, record.scope.start(self._futures[step.n]))

    async def _start_call(self, step: Step, actor: _Actor) -> None:
        if record := self._open_record(actor):
            self._started(record, record.scope.start(time.sleep, 0.0001 * step.n))

    async def _start_blocked(self, step: Step, actor: _Actor) -> None:
        if record := self._open_record(actor):
            self._started(record, record.scope.start(self._call))

    async def _start_syslet(self, step: Step, actor: _Actor) -> None:
        if record := self._open_record(actor):
            self._started(record, record.scope.start(_wait, (0, 0.0001, 0.001, 60)[step.n]))

    async def _timeout(self, step: Step, actor: _Actor) -> None:
        assert step.limit_us is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(step.limit_us / 1e6):
                await self._go_through(step.block, actor)

    async def _group(self, step: Step, actor: _Actor) -> None:
        assert step.plan is not None
        async with asyncio.TaskGroup() as group:
            coroutine = self._act(step.plan, None)
            try:
                group.create_task(coroutine)
            except RuntimeError:
                coroutine.close()
                raise
            await self._go_through(step.block, actor)

    async def _scope(self, step: Step, actor: _Actor) -> None:
        limit = None if step.limit_us is None else step.limit_us / 1e6
        record = _Record(Scope(timeout=limit, shield=step.shield))
        task = asyncio.current_task()
        assert task is not None
        # A cancellation that was requested earlier, and not delivered, is delivered in the block.
        before = task.cancelling() - bool(task._must_cancel)  # type: ignore[attr-defined]
        outcome: BaseException | None = None
        try:
            async with record.scope:
                self._records.append(record)
                actor.records.append(record)
                try:
                    await self._go_through(step.block, actor)
                except BaseException as error:
                    record.block_error = error
                    raise
                finally:
                    actor.records.pop()
        except BaseException as error:
            outcome = error
        self._check_scope(record, outcome, before, task, actor)
        if isinstance(outcome, Exception) and step.catches:
            return
        if outcome is not None:
            raise outcome

    def _block(self) -> None:
        self._gate.wait(_STUCK_S)

    def _open_record(self, actor: _Actor) -> _Record | None:
        record = actor.records[-1] if actor.records else None
        return record if record is not None and not record.scope._is_closed else None

    def _started(
        self, record: _Record, request: asyncio.Future[Any], number: int | None = None
    ) -> None:
        if request in record.requests:
            return
        record.requests.append(request)
        if request.done():
            return
        if request not in self._n_done:
            self._requests.append(request)
            if number is None:
                number = self._n_started = self._n_started + 1
            self._numbers[request] = number
            self._n_done[request] = 0
            request.add_done_callback(self._count_done)

    def _count_done(self, request: asyncio.Future[Any]) -> None:
        self._n_done[request] += 1

    # -- what happens to them --------------------------------------------------------------------

    async def run(self) -> list[str]:
        """Run the program with its events; return the claims that do not hold."""
        self._loop.set_exception_handler(lambda _, context: self._reported.append(context))
        before = _ledger()
        uses_engine = "start syslet" in repr(self._case)
        engine = use_engine("sim", seed=self._case.seed, error_rate=self._case.error_rate)
        with engine if uses_engine else contextlib.nullcontext():
            await self._run_events()
        self._check_end(before)
        self._loop.set_exception_handler(None)
        return self._violations

    async def _run_events(self) -> None:
        host = self._loop.create_task(self._act(self._case.root, None))
        events = list(self._case.events)
        for tick in range(_N_TICKS):
            while events and events[0][0] <= tick:
                _, kind, number = events.pop(0)
                self._happen(kind, number, host)
            await asyncio.sleep(0)
        self._gate.set()
        for future in self._futures:
            if not future.done():
                future.set_result(None)
        # What sleeps for ever, or waits in a circle, has to be cancelled, some of it twice.
        for _ in range(4):
            if (await asyncio.wait((host,), timeout=0.002))[0]:
                break
        until = time.monotonic() + _STUCK_S
        while not host.done() and time.monotonic() < until:
            for record in self._records:
                record.scope.cancel("it is over")
            for request in self._requests:
                request.cancel()
            await asyncio.wait((host,), timeout=0.002)
            if not host.done():
                self._n_cancels_of_host += host.cancel()
                await asyncio.wait((host,), timeout=0.05)
        self._claim(host.done(), f"the program does not end: {host!r}")
        if not host.done():
            return
        for future in self._futures:
            if not future.cancelled():
                future.exception()
        # asyncio.TaskGroup of 3.11 keeps a cancellation when a task fails while the group waits for
        # others, so the count may be higher than the number of cancellations from outside.
        is_exact = "'group'" not in repr(self._case)
        n_expected = self._n_cancels_of_host if is_exact else host.cancelling()
        is_stray = host.cancelled() and not n_expected
        if is_stray and not self._actors[0].has_awaited_cancelled:
            self._claim(False, "the host was cancelled without a request")
        if not host.cancelled():
            host.exception()
        self._claim(
            self._n_cancels_of_host == host.cancelling()
            or (not is_exact and self._n_cancels_of_host < host.cancelling()),
            f"the host was cancelled {self._n_cancels_of_host} times, and counts {host.cancelling()}",
        )
        for _ in range(3):
            await asyncio.sleep(0)

    def _happen(self, kind: str, number: int, host: asyncio.Task[None]) -> None:
        if kind == "cancel host":
            self._n_cancels_of_host += host.cancel()
        elif kind in ("settle", "fail"):
            future = self._futures[number % 4]
            if not future.done() and kind == "settle":
                future.set_result(None)
            elif not future.done():
                future.set_exception(Planned("a future"))
        elif kind == "cancel request":
            if self._requests:
                self._requests[number % len(self._requests)].cancel()
        elif self._records:
            scope = self._records[number % len(self._records)].scope
            if kind == "late cancel":
                # In the tick in which the futures are settled.
                self._loop.call_soon(scope.cancel)
                for future in self._futures:
                    if not future.done():
                        future.set_result(None)
            else:
                scope.cancel("from outside")
                if kind == "cancel twice":
                    scope.cancel("from outside, again")
                elif kind == "cancel again":
                    self._loop.call_soon(scope.cancel, "later")

    # -- claims ----------------------------------------------------------------------------------

    def _claim(self, holds: bool, claim: str) -> None:
        if not holds:
            self._violations.append(claim)

    def _check_scope(
        self,
        record: _Record,
        outcome: BaseException | None,
        n_before: int,
        task: asyncio.Task[Any],
        actor: _Actor,
    ) -> None:
        scope = record.scope
        left = [request for request in record.requests if not request.done()]
        self._claim(not left, f"requests outlive {scope!r}: {left}")
        self._claim(not scope.ledger(), f"{scope!r} has members still: {scope.ledger()}")
        self._claim(len(scope._within()) <= 1, f"{scope!r} has scopes within still")
        self._claim(task.cancelling() >= n_before, f"{scope!r} takes back what is not its own")
        failed = [it for it in record.requests if it.done() and not it.cancelled()]
        expected = [it.exception() for it in failed if it.exception() is not None]
        block_error = record.block_error
        if block_error is not None and not isinstance(block_error, asyncio.CancelledError):
            expected.append(block_error)
        n_cancels = task.cancelling() - n_before
        if isinstance(outcome, BaseExceptionGroup):
            found = list(outcome.exceptions)
            if scope._is_expired:
                late = found.pop()
                self._claim(isinstance(late, TimeoutError), f"{scope!r} has expired in silence")
            self._claim(
                sorted(map(id, expected)) == sorted(map(id, found)),
                f"{scope!r} raises {found}, of {expected}",
            )
            return
        self._claim(not expected, f"{scope!r} ends with {outcome!r} in spite of {expected}")
        if isinstance(outcome, asyncio.CancelledError):
            # It must come from the task's cancellation or from a cancelled request that it awaited.
            is_own = block_error is not None and actor.has_awaited_cancelled
            self._claim(
                n_cancels > 0 or is_own, f"{outcome!r} leaves {scope!r} without a cancellation"
            )
        elif outcome is None:
            self._claim(not scope._is_expired, f"{scope!r} has expired in silence")
        else:
            is_late = isinstance(outcome, TimeoutError) and scope._is_expired
            self._claim(is_late, f"{scope!r} raises {outcome!r}")

    def _check_end(self, before: Any) -> None:
        for request, n_done in self._n_done.items():
            self._claim(request.done(), f"it has not ended: {request!r}")
            self._claim(n_done == 1, f"its callback ran {n_done} times: {request!r}")
        for actor in self._actors:
            self._claim(not actor.is_running, "a coroutine runs still")
            self._claim(
                actor.started[::-1] == actor.cleaned,
                f"cleaned up {actor.cleaned}, of {actor.started}",
            )
        after = _ledger()
        self._claim(before == after, f"the ledger says {after}, and said {before}")
        self._claim(0 == BufferPool.default().in_use, "memory is on loan")
        counts = self._pool._counts(self._loop)
        self._claim((0, 0) == tuple(counts[:2]), f"the pool's places are taken: {counts}")
        self._claim(not self._loop.__dict__.get("_entered"), "the loop remembers scopes")
        self._claim(not self._reported, f"reported: {self._reported}")


def _ledger() -> Any:
    # Threads end later, at no fixed time.
    return dataclasses.replace(threadlets.ledger(), threads=0, ready=0)
