"""The ledger and leaks: what a loop leaves behind is counted and named, and in tests an error."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import threadlets
from threadlets import Ledger, Scope, syslet
from threadlets.atoms import timeout
from threadlets.exceptions import LeakError
from threadlets.testing import no_leaks, use_engine
from waiting import eventually

from .conftest import Run


@syslet
def _wait(seconds):
    yield timeout(seconds)


async def _forever() -> None:
    await asyncio.Event().wait()


_PYTEST = [sys.executable, "-m", "pytest", "-q"]


def _leave_a_task(debug: bool = False, leaks: Literal["warn", "raise"] = "warn") -> threadlets.Loop:
    """Return a loop that is not closed and has a task outstanding."""
    loop = threadlets.new_event_loop(leaks=leaks)
    loop.set_debug(debug)
    loop.set_exception_handler(lambda _loop, _context: None)
    task = loop.create_task(_forever(), name="left-behind")
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.test_task = task  # type: ignore[attr-defined]
    return loop


def test_a_ledger_counts_requests_by_kind(run: Run) -> None:
    """A scope's ledger has its own requests; the loop's has all, with the task that asks."""

    async def main() -> tuple[Ledger, Ledger, Ledger]:
        with use_engine("sim"):
            async with Scope() as scope:
                scope.start(_forever())
                scope.start(_forever)
                scope.start(_wait, 60)
                scope.start(threadlets.sleep(60))
                scope.start(asyncio.get_running_loop().create_future())
                async with Scope() as inner:
                    inner.start(_forever())
                    await asyncio.sleep(0)
                    found = scope.ledger(), inner.ledger(), threadlets.ledger()
                    scope.cancel()
            return found

    outer, inner, loops = run(main())
    assert Ledger(tasks=2, syslets=1, waits=2) == outer
    assert Ledger(tasks=1) == inner
    assert (4, 1, 2) == (loops.tasks, loops.syslets, loops.waits)


def test_a_ledger_of_nothing_is_false_and_says_so() -> None:
    """Timers and callbacks own nothing, so they do not count."""
    assert not Ledger()
    assert not Ledger(timers=3, ready=2, threads=1)
    assert Ledger(blocked=1)
    assert "nothing" == str(Ledger())
    assert "2 tasks, 1 timers" == str(Ledger(tasks=2, timers=1))


def test_there_is_no_ledger_without_a_loop_of_ours() -> None:
    """The error says what to do."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"threadlets\.run"):
            threadlets.ledger()

    asyncio.run(main())
    with pytest.raises(RuntimeError):
        threadlets.ledger()


def test_closing_a_loop_warns_of_what_is_left() -> None:
    """The warning names the task."""
    loop = _leave_a_task()
    with pytest.warns(ResourceWarning, match="1 tasks: .*left-behind"):
        loop.close()
    assert loop.is_closed()


def test_what_is_left_is_named_with_where_it_was_started_in_debug_mode() -> None:
    """With `leaks="raise"` it is an error; the loop is closed nevertheless."""
    loop = _leave_a_task(debug=True, leaks="raise")
    with pytest.raises(LeakError, match=r"left-behind.*started at .*test_ledger\.py:\d+"):
        loop.close()
    assert loop.is_closed()


def test_a_loop_that_is_closed_twice_reports_once() -> None:
    """Closing a loop again does nothing."""
    loop = _leave_a_task()
    with pytest.warns(ResourceWarning):
        loop.close()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        loop.close()
    assert [] == found


@pytest.mark.filterwarnings("ignore:unclosed")
def test_an_open_connection_is_left_too() -> None:
    """A transport that was not closed is named; a descriptor of `add_reader` belongs to the user."""
    loop = threadlets.new_event_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.add_reader(theirs, print)
        connecting = loop.create_connection(asyncio.Protocol, sock=ours)
        transport, _ = loop.run_until_complete(connecting)
        with pytest.warns(ResourceWarning, match="1 descriptors; open: .*Transport"):
            loop.close()
        # The transport's finalizer warns that it was not closed; run it here.
        del transport, loop
        gc.collect()


def test_no_leaks_fails_for_a_loop_that_was_closed_with_something_left() -> None:
    """Within `no_leaks`, leaks are errors in every mode."""
    loop = _leave_a_task()
    with no_leaks(), pytest.raises(LeakError, match="left-behind"):
        loop.close()


def test_no_leaks_fails_for_a_loop_that_was_closed_while_an_exception_was_handled() -> None:
    """That exception is not replaced, and the leak is not forgotten."""
    loop = _leave_a_task()

    def handle() -> None:
        try:
            raise KeyError
        except KeyError:
            with pytest.warns(ResourceWarning):
                loop.close()

    with pytest.raises(LeakError, match="left-behind"), no_leaks():
        handle()


def test_no_leaks_fails_for_a_loop_that_was_left_open() -> None:
    """The loop was made in the block, and has something outstanding."""
    loops: list[threadlets.Loop] = []
    with pytest.raises(LeakError, match="still has something outstanding"), no_leaks():
        loops.append(_leave_a_task())
    with pytest.warns(ResourceWarning):
        loops[0].close()


def test_no_leaks_passes_what_is_clean() -> None:
    """A loop whose requests have ended passes."""

    async def main() -> None:
        async with Scope() as scope:
            scope.start(threadlets.sleep(0))
            scope.start(asyncio.sleep(0))

    with no_leaks():
        threadlets.run(main())


def test_the_plugin_fails_a_test_that_leaks_and_passes_one_that_does_not(tmp_path: Path) -> None:
    """Every test has to end with an empty ledger, unless it is marked."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["threadlets.testing.plugin"]\n')
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            import asyncio, pytest, threadlets

            def leave():
                loop = threadlets.new_event_loop()
                loop.set_exception_handler(lambda *_: None)
                loop.kept = loop.create_task(asyncio.sleep(60))
                loop.call_soon(loop.stop)
                loop.run_forever()
                loop.close()

            def test_clean():
                threadlets.run(asyncio.sleep(0))

            def test_leaky():
                leave()

            @pytest.mark.leaks
            @pytest.mark.filterwarnings("ignore")
            def test_marked():
                leave()
        """)
    )
    package = str(Path(threadlets.__file__).parent.parent)
    finished = subprocess.run(
        # looptime's plugin needs pytest-asyncio's.
        [*_PYTEST, "-p", "no:cacheprovider", "-p", "no:looptime_plugin", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": package},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "FAILED test_it.py::test_leaky" in finished.stdout, finished.stdout + finished.stderr
    assert "1 failed, 2 passed" in finished.stdout


def test_what_is_blocked_is_counted(run: Run) -> None:
    """A function that blocks a thread of its own counts until it returns."""

    async def main() -> Any:
        import threading

        gate = threading.Event()
        async with Scope() as scope:
            scope.start(gate.wait)
            await eventually(lambda: threadlets.ledger().blocked)
            found = scope.ledger(), threadlets.ledger().blocked
            gate.set()
        return *found, threadlets.ledger().blocked

    assert (Ledger(calls=1), 1, 0) == run(main())
