"""Child processes that a coroutine starts while the main thread is blocked: another thread is their parent."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import pytest
import threadlets
from waiting import eventually, wait_until

from .harness import home_blocked

_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
# How long a child has to stay alive to count as not ended.
_ENDED_AFTER_S = 0.3


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that made it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start_child() -> subprocess.Popen[bytes]:
    """Start a child that ends when its input does, or with the thread that made it."""
    return subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent
    )


def answers(child: subprocess.Popen[bytes]) -> bool:
    """Return whether a child lives, goes on living for a while, and answers."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.wait(_ENDED_AFTER_S)
    except subprocess.TimeoutExpired:
        child.stdin.write(b"line\n")
        child.stdin.flush()
        return child.stdout.readline() == b"line\n"
    return False


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child, and wait for it."""
    child.communicate()
    assert 0 == child.returncode


def n_workers() -> int:
    """Return how many threads of loops the kernel knows, those of loops of earlier tests included."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        # A thread may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            names.append(path.read_text())
    return sum(name.startswith("threadlets-") for name in names)


def test_child_outlives_the_idle_thread_that_started_it(run: Any) -> None:
    """The thread leaves the workers, and stays as a thread for as long as the child lives."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        await eventually(lambda: n_workers() == 0)
        async with home_blocked():
            child = start_child()
        await eventually(lambda: loop._worker_stats()["threads"] == 0)
        assert answers(child)
        await eventually(lambda: n_workers() == 1)
        end(child)
        await eventually(lambda: n_workers() == 0)

    run(main())


def test_child_of_a_function_outlives_its_thread(run: Any) -> None:
    """The thread that calls the function is a worker that took over, not the home thread."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with home_blocked():
            child = await threadlets.call(start_child)
        await eventually(lambda: loop._worker_stats()["threads"] == 0)
        assert answers(child)
        end(child)

    run(main())


def test_child_outlives_the_loop(run: Any) -> None:
    """The loop is closed without waiting for the child, as if the main thread had started it."""
    wait_until(lambda: n_workers() == 0)

    async def main() -> subprocess.Popen[bytes]:
        async with home_blocked():
            return start_child()

    child = run(main())
    assert answers(child)
    end(child)
    wait_until(lambda: n_workers() == 0)


def test_thread_without_children_ends_with_the_loop(run: Any) -> None:
    """A thread ends when all its children have been waited for."""
    wait_until(lambda: n_workers() == 0)

    async def main() -> None:
        async with home_blocked():
            process = await asyncio.create_subprocess_exec("true")
            assert 0 == await process.wait()
            subprocess.run(["true"], check=True)

    run(main())
    wait_until(lambda: n_workers() == 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python has no child watchers")
@pytest.mark.parametrize(
    "name",
    ["SafeChildWatcher", "FastChildWatcher", "ThreadedChildWatcher", "PidfdChildWatcher"],
)
def test_child_watchers_are_attached_and_hear_of_children(run: Any, name: str) -> None:
    """Child watchers work while home is blocked, also those that set a handler of SIGCHLD."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        watcher: Any = getattr(asyncio, name)()
        ended: asyncio.Future[int] = loop.create_future()

        def note(_pid: int, status: int) -> None:
            loop.call_soon_threadsafe(ended.set_result, status)

        async with home_blocked():
            watcher.attach_loop(loop)
            with watcher:
                child = subprocess.Popen(["sh", "-c", "exit 3"])
                watcher.add_child_handler(child.pid, note)
            assert 3 == await ended
            child.returncode = 3
            asyncio.set_child_watcher(watcher)
            try:
                process = await asyncio.create_subprocess_exec("sh", "-c", "exit 5")
                assert 5 == await process.wait()
            finally:
                asyncio.set_child_watcher(None)
                watcher.attach_loop(None)
                watcher.close()
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL

    run(main())


def test_subprocesses_answer_and_end(run: Any) -> None:
    """Pipes, exit statuses and signals of subprocesses work while home is blocked."""

    async def main() -> None:
        async with home_blocked():
            program = "import sys; print(input()[::-1]); sys.exit(3)"
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-Sc", program, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert (b"cba\n", None) == await process.communicate(b"abc\n")
            assert 3 == process.returncode
            process = await asyncio.create_subprocess_shell("exec sleep 60")
            process.terminate()
            assert -signal.SIGTERM == await process.wait()

    run(main())


@pytest.fixture
def no_servers() -> Iterator[None]:
    """Stop the processes that `multiprocessing` starts others with: they hold the tests' pipes."""
    yield
    for server in (forkserver._forkserver, resource_tracker._resource_tracker):  # type: ignore[attr-defined]
        server._stop()


def run_a_loop(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Run a loop in a child process, on its main thread."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, print)
        process = await asyncio.create_subprocess_exec("sh", "-c", "exit 5")
        return await process.wait()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        sys.exit(runner.run(main()))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.usefixtures("no_servers")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_are_started_and_waited_for(run: Any, method: str) -> None:
    """Processes of `multiprocessing`, also with loops, and process pools work."""
    context: Any = multiprocessing.get_context(method)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with home_blocked():
            for make_loop in (asyncio.SelectorEventLoop, threadlets.new_event_loop):
                process = context.Process(target=run_a_loop, args=(make_loop,))
                process.start()
                await asyncio.to_thread(process.join)
                assert 5 == process.exitcode
            with ProcessPoolExecutor(1, mp_context=context) as executor:
                assert os.getpid() != await loop.run_in_executor(executor, os.getpid)

    run(main())


def test_fork_and_waitpid(run: Any) -> None:
    """A child belongs to the process: any thread can wait for it."""

    def wait(pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def fork() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            os._exit(7)
        return pid

    async def main() -> None:
        async with home_blocked():
            assert 7 == wait(fork())
            pid = fork()
        assert 7 == wait(pid)

    run(main())
