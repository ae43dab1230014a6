"""Signals while functions are blocked on the main thread: whole programs, so that Ctrl-C is real."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from .harness import line, outcome

pytestmark = pytest.mark.starts("inline", "beside")


@pytest.mark.starts("inline")
def test_ctrl_c_cancels_the_main_task_while_the_main_thread_is_blocked(script: Any) -> None:
    """The runner's handler runs on the main thread, the cancellation on the dispatcher."""
    process = script(
        """
        gate = threading.Event()

        async def main():
            blocked = asyncio.create_task(threadlets.call(gate.wait))
            await eventually(lambda: threading.current_thread() is not threading.main_thread())
            print("ready")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("cancelled while blocked:", not blocked.done())
                gate.set()
                await blocked
                raise

        threadlets.run(main())
        """
    )
    assert "ready" == line(process)
    process.send_signal(signal.SIGINT)
    status, stdout, stderr = outcome(process)
    assert "cancelled while blocked: True" in stdout
    assert "KeyboardInterrupt" in stderr
    assert -signal.SIGINT == status


@pytest.mark.starts("inline")
def test_second_ctrl_c_interrupts_the_blocked_function(script: Any) -> None:
    """The first Ctrl-C cancels the blocked main task; the second interrupts its function."""
    process = script(
        """
        async def tell(task):
            await eventually(lambda: threadlets.stats()["blocked"])
            print("blocked")
            await eventually(task.cancelling)
            print("cancelled")

        async def main():
            telling = asyncio.create_task(tell(asyncio.current_task()))
            try:
                await threadlets.call(time.sleep, 60)
            except KeyboardInterrupt:
                print("interrupted")
                raise

        threadlets.run(main())
        """
    )
    assert "blocked" == line(process)
    process.send_signal(signal.SIGINT)
    assert "cancelled" == line(process)
    process.send_signal(signal.SIGINT)
    status, stdout, _ = outcome(process)
    assert "interrupted" == stdout.strip()
    assert -signal.SIGINT == status


@pytest.mark.parametrize("where", ["blocked", "idle"])
def test_signal_handlers_of_the_loop_run_on_the_dispatcher(script: Any, where: str) -> None:
    """SIGTERM is handled at once, although the main thread is in a function that does not return."""
    process = script(
        f"""
        gate = threading.Event()

        async def main():
            loop = asyncio.get_running_loop()
            got = asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, got.set)
            task = asyncio.create_task(threadlets.call(gate.wait if "{where}" == "blocked" else int))
            await eventually(lambda: task.done() or threadlets.stats()["blocked"])
            print("ready")
            await got.wait()
            print("main thread blocked:", not task.done())
            gate.set()
            await task

        threadlets.run(main())
        """
    )
    assert "ready" == line(process)
    process.send_signal(signal.SIGTERM)
    status, stdout, stderr = outcome(process)
    assert (0, "") == (status, stderr)
    assert stdout.strip() == f"main thread blocked: {where == 'blocked'}"


@pytest.mark.starts("inline")
def test_python_handler_runs_while_home_waits_for_the_role(script: Any) -> None:
    """While home waits for the role, it runs the handler, and goes on waiting."""
    process = script(
        """
        gate, may_end = threading.Event(), threading.Event()
        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: (seen.append(1), may_end.set()))

        def busy():
            # A request that holds the role, outside of any threadlet, until the handler has run.
            gate.set()
            os.kill(os.getpid(), signal.SIGUSR1)
            assert may_end.wait(10)

        async def main():
            task = asyncio.create_task(threadlets.call(gate.wait))
            await eventually(lambda: threading.current_thread() is not threading.main_thread())
            asyncio.get_running_loop().call_soon(busy)
            await task
            print("seen", len(seen))

        threadlets.run(main())
        """
    )
    status, stdout, stderr = outcome(process)
    assert (0, "seen 1", "") == (status, stdout.strip(), stderr)


@pytest.mark.starts("inline")
def test_exception_that_ends_the_loop_reaches_home_from_another_thread(script: Any) -> None:
    """SystemExit in a task on another worker ends the program, once home has returned."""
    process = script(
        """
        gate = threading.Event()

        async def main():
            asyncio.create_task(threadlets.call(gate.wait))
            await eventually(lambda: threading.current_thread() is not threading.main_thread())
            gate.set()
            raise SystemExit(7)

        threadlets.run(main())
        """
    )
    status, _, stderr = outcome(process)
    assert (7, "") == (status, stderr)
