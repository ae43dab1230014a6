"""Closing a loop, or ending the process, with something left is reported and does no harm."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import textwrap
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import threadlets
from threadlets.exceptions import LeakError

from .harness import DEADLINE_S, LoopFactory, Script, threadlets_only

DEBUG = pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])


@pytest.fixture
def left() -> Iterator[list[Any]]:
    """Keep what a test leaves behind until the test has ended, then drop it without warnings."""
    kept: list[Any] = []
    yield kept
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while kept:
            it = kept.pop()
            if isinstance(it, asyncio.Task):
                it._log_destroy_pending = False  # type: ignore[attr-defined]
            if isinstance(it, socket.socket):
                it.close()
        del it
        gc.collect()


async def _leave_a_task(left: list[Any]) -> None:
    left.append(asyncio.ensure_future(asyncio.sleep(60)))
    await asyncio.sleep(0)


async def _leave_a_connection(left: list[Any]) -> None:
    ours, theirs = socket.socketpair()
    connection = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    left += [connection, theirs]


class Unshowable:
    """An awaitable whose repr raises, and so does the repr of the task that awaits it."""

    _asyncio_future_blocking = False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, *_: Any, **__: Any) -> None:
        pass

    def __await__(self) -> Any:
        self._asyncio_future_blocking = True
        yield self

    def __repr__(self) -> str:
        raise ValueError("cannot be shown")


async def _leave_what_cannot_be_shown(left: list[Any]) -> None:
    async def wait() -> None:
        await Unshowable()

    left.append(asyncio.ensure_future(wait()))
    await asyncio.sleep(0)


@DEBUG
@pytest.mark.parametrize("leave", [_leave_a_task, _leave_a_connection, _leave_what_cannot_be_shown])
def test_close_raises_nothing_where_warnings_are_errors(
    loop_factory: LoopFactory, debug: bool, leave: Any, left: list[Any]
) -> None:
    """Our warnings replace neither a result nor an exception; asyncio's come from finalizers."""
    for fails in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loop = loop_factory()
            loop.set_exception_handler(lambda *_: None)
            loop.set_debug(debug)
            try:
                loop.run_until_complete(leave(left))
                if fails:
                    raise KeyError("main's own")
            except KeyError:
                loop.close()
            else:
                loop.close()
            assert loop.is_closed()


@DEBUG
def test_runner_gives_the_result_and_the_exception_of_main(
    loop_factory: LoopFactory, debug: bool, left: list[Any]
) -> None:
    """A connection that outlives the clean-up costs main neither its result nor its exception."""

    async def main(fails: bool) -> int:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        await _leave_a_connection(left)
        if fails:
            raise KeyError("main's own")
        return 42

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            assert 42 == runner.run(main(False))
        with (
            pytest.raises(KeyError),
            asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner,
        ):
            runner.run(main(True))


@threadlets_only
@DEBUG
def test_exception_handler_is_told_where_warnings_are_errors(
    loop_factory: LoopFactory, debug: bool, left: list[Any]
) -> None:
    """The handler is given the text that names the task; elsewhere a warning has it."""
    loop, told = loop_factory(), list[str]()
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    loop.set_debug(debug)
    loop.run_until_complete(_leave_a_task(left))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop.close()
    (message,) = told
    assert "1 tasks: <Task pending" in message

    loop = loop_factory()
    loop.set_debug(debug)
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    loop.run_until_complete(_leave_a_task(left))
    with pytest.warns(ResourceWarning, match="1 tasks: <Task pending") as warned:
        loop.close()
    assert __file__ == warned[0].filename
    assert [message] == told


def test_loop_raises_what_is_left_where_that_was_asked_for(left: list[Any]) -> None:
    """With `leaks="raise"`, `close` and `run` raise LeakError; main's own exception comes first."""
    loop = threadlets.new_event_loop(leaks="raise")
    loop.run_until_complete(_leave_a_task(left))
    with pytest.raises(LeakError, match="1 tasks"):
        loop.close()
    assert loop.is_closed()

    with pytest.raises(LeakError, match="1 descriptors"):
        threadlets.run(_leave_a_connection(left), leaks="raise")

    async def fail() -> None:
        await _leave_a_connection(left)
        raise KeyError("main's own")

    with pytest.raises(KeyError), pytest.warns(ResourceWarning, match="1 descriptors"):
        threadlets.run(fail(), leaks="raise")


def test_leaks_is_one_of_two_words() -> None:
    """Another value of `leaks` is refused, and the message names the two that are allowed."""
    with pytest.raises(ValueError, match=r"leaks is 'maybe'; it is 'warn', or 'raise'"):
        threadlets.new_event_loop(leaks="maybe")  # type: ignore[arg-type]


class FailingExecutor(ThreadPoolExecutor):
    """An executor that cannot be shut down."""

    def shutdown(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("cannot be shut down")


def test_loop_is_closed_though_its_executor_fails(loop_factory: LoopFactory) -> None:
    """`close` raises the executor's exception, and the loop's descriptors are closed all the same."""
    loop = loop_factory()
    loop.set_default_executor(FailingExecutor())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if isinstance(loop, threadlets.Loop):
            loop.add_reader(ours, print)
        with pytest.raises(RuntimeError, match="cannot be shut down"):
            loop.close()
        assert loop.is_closed()
        if isinstance(loop, threadlets.Loop):
            assert 0 == threadlets_descriptors(loop)


def threadlets_descriptors(loop: threadlets.Loop) -> int:
    """Return how many descriptors a loop watches."""
    return len(loop._descriptors())


@pytest.mark.skipif(sys.platform != "linux", reason="signals of asyncio")
def test_loop_with_a_signal_handler_is_closed_in_another_thread(loop_factory: LoopFactory) -> None:
    """Off the main thread asyncio's close raises ValueError over signals; the loop is closed."""
    loop = loop_factory()
    loop.add_signal_handler(signal.SIGUSR2, print)
    try:
        with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="main thread"):
            pool.submit(loop.close).result()
        assert loop.is_closed()
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)


LEFT_AT_THE_END = """
    class Shown:
        def __repr__(self):
            return "<shown>"

    loop = new_loop()
    loop.set_debug(DEBUG)

    async def left(): await asyncio.sleep(100)
    async def failed(): raise KeyError("failed")
    async def main():
        global kept
        kept = [asyncio.ensure_future(left()), asyncio.ensure_future(failed())]
        kept += [loop.call_later(100, print, Shown()), loop.create_future()]
        kept[-1].set_exception(ValueError("unseen"))
        await asyncio.sleep(0)

    loop.run_until_complete(main())
"""


@pytest.mark.parametrize("closes", [False, True], ids=["open", "closed"])
@DEBUG
def test_process_that_ends_with_something_left_names_it(
    loop_factory: LoopFactory, script: Script, debug: bool, closes: bool
) -> None:
    """The report is asyncio's, without tracebacks of ours, although modules are gone by then."""
    source = textwrap.dedent(LEFT_AT_THE_END).replace("DEBUG", str(debug))
    process = script(source + ("loop.close()\n" if closes else ""))
    _, said = process.communicate(timeout=DEADLINE_S)
    assert 0 == process.returncode
    assert "Task was destroyed but it is pending!" in said
    assert "coro=<left() running" in said
    assert "Task exception was never retrieved" in said
    assert "Future exception was never retrieved" in said
    assert "meta_path" not in said
    assert "Exception ignored" not in said
