"""A signal that comes while a C function runs on the main thread is handled when that returns.

The byte in the wakeup socket has been read by then, so it would end no later wait.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import threadlets
from waiting import eventually

pytestmark = pytest.mark.starts("inline")

_FAILED_AFTER_S = 3.0
_LIBC = ctypes.CDLL(None)


class CFunction:
    """A call of `read` that a signal does not end, and that runs no Python code when it returns."""

    def __init__(self) -> None:
        self._source, self._target = os.pipe()
        self._memory = ctypes.create_string_buffer(1)

    def begin(self) -> asyncio.Task[Any]:
        """Call the function in a task, and return the task."""
        call = threadlets.call(_LIBC.read, self._source, self._memory, 1)
        return asyncio.get_running_loop().create_task(call)

    def end(self) -> None:
        """Make the function return."""
        os.write(self._target, b"x")

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._source)
        os.close(self._target)


@pytest.fixture
def function() -> Iterator[CFunction]:
    """Provide a C function that blocks."""
    function = CFunction()
    yield function
    function.close()


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[..., Any]], None]]:
    """Provide a setter for a handler of SIGUSR1 that lasts until the end of the test."""
    before = signal.getsignal(signal.SIGUSR1)

    def handle(handler: Callable[..., Any]) -> None:
        signal.signal(signal.SIGUSR1, handler)
        signal.siginterrupt(signal.SIGUSR1, False)

    yield handle
    signal.signal(signal.SIGUSR1, before)


async def on_another_thread() -> None:
    """Wait until the role has moved."""
    await eventually(lambda: threading.current_thread() is not threading.main_thread())


def test_a_signal_is_looked_at_before_the_poll(run: Any, function: Any, handle: Any) -> None:
    """The handler runs before the poll, which nothing else would end."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        handled = loop.create_future()
        handle(lambda *_: handled.set_result(time.monotonic()))
        byte_was_read = asyncio.Event()
        process_data = loop._process_self_data
        loop._process_self_data = lambda data: (byte_was_read.set(), process_data(data))
        task = function.begin()
        await on_another_thread()
        os.kill(os.getpid(), signal.SIGUSR1)
        await byte_was_read.wait()
        assert not handled.done()
        returned_at = time.monotonic()
        function.end()
        del loop._process_self_data
        async with asyncio.timeout(2 * _FAILED_AFTER_S):
            handled_at = await handled
        assert handled_at - returned_at < _FAILED_AFTER_S
        await task

    run(main())


@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_a_signal_is_looked_at_before_the_role_is_waited_for(
    run: Any, function: Any, handle: Any, ends: str
) -> None:
    """The handler runs before home has the role; its exception is raised when home has it."""
    handled = threading.Event()

    def handler(*_: Any) -> None:
        handled.set()
        if ends == "raises":
            raise KeyError("of the handler")

    async def main() -> None:
        handle(handler)
        task = function.begin()
        await on_another_thread()
        os.kill(os.getpid(), signal.SIGUSR1)
        function.end()
        # This step keeps the role, for which the function's thread waits meanwhile.
        assert handled.wait(_FAILED_AFTER_S)
        if ends == "returns":
            await task
        else:
            with pytest.raises(KeyError):
                await task

    run(main())


def test_ctrl_c_ends_a_program_to_which_nothing_happens(script: Any) -> None:
    """Ctrl-C ends an idle program as soon as the C function that it interrupted has returned."""
    process = script(
        """
        import ctypes
        source, target = os.pipe()
        signal.siginterrupt(signal.SIGINT, False)

        async def main():
            loop = asyncio.get_running_loop()
            signal.siginterrupt(signal.SIGINT, False)
            read = threading.Event()
            process_data = loop._process_self_data
            loop._process_self_data = lambda data: (read.set(), process_data(data))
            memory = ctypes.create_string_buffer(1)
            task = loop.create_task(threadlets.call(ctypes.CDLL(None).read, source, memory, 1))
            await eventually(lambda: threading.current_thread() is not threading.main_thread())

            def interrupt():
                os.kill(os.getpid(), signal.SIGINT)
                read.wait()
                os.write(target, b"x")

            threading.Thread(target=interrupt).start()
            await asyncio.sleep(60)

        threadlets.run(main())
        """
    )
    started_at = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - started_at < 20
    assert "KeyboardInterrupt" in stderr
    assert -signal.SIGINT == process.returncode
