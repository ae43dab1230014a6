"""Executors run blocking work in other threads and report its outcome to the loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from .harness import DEADLINE_S, LoopFactory, Run


def test_work_runs_in_another_thread(run: Run) -> None:
    """The default executor, a given one, and `to_thread` run work in other threads."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        here = threading.get_ident()
        with ThreadPoolExecutor(1, thread_name_prefix="own") as own:
            assert "own_0" == await loop.run_in_executor(own, current_name)
            assert here != await loop.run_in_executor(None, threading.get_ident)
            assert here != await asyncio.to_thread(threading.get_ident)
            loop.set_default_executor(own)
            assert "own_0" == await loop.run_in_executor(None, current_name)

    run(main())


def test_exception_comes_back(run: Run) -> None:
    """An exception of the work is raised where the work is awaited."""

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(divmod, 1, 0)

    run(main())


def test_context_goes_along(run: Run) -> None:
    """`to_thread` sees the context variables of its caller."""
    var: ContextVar[str] = ContextVar("var")

    async def main() -> None:
        var.set("here")
        assert "here" == await asyncio.to_thread(var.get)

    run(main())


def test_many_pieces_of_work_all_come_back(run: Run) -> None:
    """Five hundred calls at once return each its own result."""

    async def main() -> None:
        results = await asyncio.gather(*(asyncio.to_thread(abs, -n) for n in range(500)))
        assert list(range(500)) == results

    run(main())


def test_shut_down_executor_takes_no_work(run: Run) -> None:
    """After `shutdown_default_executor` its threads have ended and new work is refused."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        n_before = threading.active_count()
        await asyncio.to_thread(int)
        await loop.shutdown_default_executor()
        assert n_before == threading.active_count()
        with pytest.raises(RuntimeError):
            await loop.run_in_executor(None, int)

    run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_work_that_ends_after_its_loop_does_no_harm(
    loop_factory: LoopFactory, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    """A thread that reports a result or an error to a closed loop fails silently."""
    loop = loop_factory()
    started, release = threading.Event(), threading.Event()
    reported: list[bool] = []

    def work() -> None:
        started.set()
        assert release.wait(DEADLINE_S)
        if fails:
            raise ValueError

    with ThreadPoolExecutor(1) as executor:
        inner = executor.submit(work)
        outer = asyncio.wrap_future(inner, loop=loop)
        # Runs after the callback that reports to the loop, because it was added later.
        inner.add_done_callback(lambda _: reported.append(loop.is_closed()))
        loop.run_until_complete(asyncio.to_thread(started.wait, DEADLINE_S))
        outer.cancel()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        release.set()
    assert [True] == reported
    assert fails == isinstance(inner.exception(), ValueError)
    assert outer.cancelled()
    # concurrent.futures logs what its callbacks raise.
    assert [] == caplog.records


def current_name() -> str:
    """Return the name of the calling thread."""
    return threading.current_thread().name
