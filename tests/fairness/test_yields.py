"""Where an await lets others run it has not begun yet, so cancelling it there loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets import CompletionRing, sweep
from threadlets.atoms import Flow

from .harness import nothing, read_head


async def _cancelled(greedy: Any) -> None:
    """Run a task for 2 ms and cancel it; of several, some are then letting others run."""
    task = asyncio.create_task(greedy)
    await asyncio.sleep(0.002)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.starts("inline")
def test_a_cancelled_call_was_not_made(run: Any, without_forced_switches: None) -> None:
    """A call that is cancelled while it lets others run was not made."""

    async def main() -> None:
        numbers, got = itertools.count(), []

        async def greedy() -> None:
            while True:
                got.append(await threadlets.call(next, numbers))

        for _ in range(5):
            await _cancelled(greedy())
        assert len(got) == next(numbers)

    run(main())


def test_a_cancelled_read_reads_nothing(run: Any, tmp_path: Path) -> None:
    """The completed reads and the rest together are the whole content of the file."""
    content = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(content)

    async def main() -> None:
        got = bytearray()

        async def greedy() -> None:
            while len(got) < len(content) - 100:
                got.extend(await file.read(100))

        async with threadlets.open(tmp_path / "file", "rb") as file:
            for _ in range(5):
                await _cancelled(greedy())
            assert content.startswith(got)
            assert content == bytes(got) + await file.read()

    run(main())


def test_a_cancelled_wait_loses_no_entry(run: Any, engine_kind: str) -> None:
    """The result of every submitted program comes out once."""

    async def main() -> None:
        ring, got, n_submitted = CompletionRing(), [], 0

        async def greedy() -> None:
            nonlocal n_submitted
            while True:
                if ring.submit(nothing, tag=n_submitted, flags=Flow.ASYNC) is None:
                    n_submitted += 1
                got.extend(it.tag for it in await ring.async_wait(1))

        for _ in range(5):
            await _cancelled(greedy())
        while ring.outstanding:
            got.extend(it.tag for it in await ring.async_wait(1))
        assert list(range(n_submitted)) == sorted(got)
        ring.close()

    run(main())


def test_a_file_is_closed_though_its_task_was_cancelled(run: Any, engine_kind: str) -> None:
    """`close` closes the file even if it should have let others run first."""

    async def main() -> None:
        file = await threadlets.open(__file__, "rb")
        await threadlets.call(time.sleep, 0.002)
        await threadlets.call(int)

        async def closes() -> None:
            await threadlets.call(int)
            time.sleep(0.002)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await file.close()

        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.create_task(closes())
        assert file.closed
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(file._binary.descriptor.fd)

    run(main())


def test_an_await_inside_a_function_lets_no_task_run(run: Any) -> None:
    """An await inside a function does not yield: the function could not wait for the others."""

    def function() -> None:
        for _ in range(3):
            time.sleep(0.002)
            with pytest.raises(StopIteration):
                threadlets.call(int).send(None)

    async def main() -> None:
        await threadlets.call(function)

    run(main())


@pytest.mark.starts("inline")
def test_an_await_driven_by_hand_is_not_held_up_for_ever(run: Any) -> None:
    """The await yields once, and ends in the same step when it is resumed."""

    async def main() -> None:
        await threadlets.call(int)
        time.sleep(0.002)
        call = threadlets.call(int, "7")
        assert call.send(None) is None
        # Longer than another time slice.
        time.sleep(0.002)
        with pytest.raises(StopIteration) as returned:
            call.send(None)
        assert 7 == returned.value.value

    run(main())


@pytest.mark.starts("inline")
def test_a_call_that_is_thrown_away_while_others_run_was_not_made(run: Any) -> None:
    """There is no warning either that the call was never awaited."""

    async def main() -> None:
        made: list[int] = []
        for end in ("close", "throw"):
            await threadlets.call(int)
            time.sleep(0.002)
            call = threadlets.call(made.append, 1)
            assert call.send(None) is None
            if end == "close":
                call.close()
            else:
                with pytest.raises(KeyError):
                    call.throw(KeyError())
            with pytest.raises(RuntimeError, match="twice"):
                call.send(None)
            del call
        assert [] == made

    run(main())


def test_a_deep_sweep_takes_a_slice_at_a_time(run: Any, engine_kind: str) -> None:
    """A slice starts only some of the inputs; the next one goes on there, until all are done."""
    n_inputs = 20_000

    async def main() -> None:
        results = sweep(read_head, itertools.repeat(__file__, n_inputs), depth=n_inputs)
        first = results._native.next_batch_nowait()
        assert first is not None
        assert results._native.counts()[0] < n_inputs
        n_done = len(first)
        async for batch in results.batches_async():
            n_done += len(batch)
        assert n_inputs == n_done

    run(main())
