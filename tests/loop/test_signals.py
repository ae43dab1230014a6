"""Signal handlers run at once, also while the loop waits, and Ctrl-C ends a program."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from .harness import DEADLINE_S, Run, Script, socket_pair, threadlets_only, ticks


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Restore the handlers of the signals used here."""
    used = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
    before = [signal.getsignal(number) for number in used]
    yield
    for number, handler in zip(used, before, strict=True):
        signal.signal(number, handler)


class Interruption(Exception):
    """The exception that signal handlers raise here."""


def test_signal_handler_of_the_loop_runs_while_it_waits(run: Run) -> None:
    """A signal sent by another thread wakes the loop, and its handler may use the loop."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        received: asyncio.Future[str] = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, received.set_result, "usr1")
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1)).start()
        assert "usr1" == await received
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert not loop.remove_signal_handler(signal.SIGUSR1)

    run(main())


def test_each_signal_reaches_its_own_handler(run: Run) -> None:
    """Each of two signals calls its own handler; a handler that was replaced is not called."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        received: list[str] = []
        both = asyncio.Event()

        def note(name: str) -> None:
            received.append(name)
            if len(received) == 2:
                both.set()

        loop.add_signal_handler(signal.SIGUSR1, note, "replaced")
        loop.add_signal_handler(signal.SIGUSR1, note, "one")
        loop.add_signal_handler(signal.SIGUSR2, note, "two")
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR2)
        await both.wait()
        assert ["one", "two"] == sorted(received)

    run(main())


def test_plain_python_handler_runs_while_the_loop_waits(run: Run) -> None:
    """`signal.signal` handlers run too, without `add_signal_handler`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        received: asyncio.Future[None] = loop.create_future()

        def handler(_number: int, _frame: object) -> None:
            loop.call_soon_threadsafe(received.set_result, None)

        signal.signal(signal.SIGUSR1, handler)
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1)).start()
        await received

    run(main())


@threadlets_only  # The stock loop misses a signal that comes just before it begins to wait.
def test_exception_of_a_signal_handler_leaves_the_run(loop: asyncio.AbstractEventLoop) -> None:
    """An exception of a Python signal handler leaves `run_forever` at once."""

    def handler(_number: int, _frame: object) -> None:
        raise Interruption

    signal.signal(signal.SIGUSR1, handler)
    waiting = threading.Event()

    def kill() -> None:
        waiting.wait(DEADLINE_S)
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=kill)
    thread.start()
    loop.call_soon(waiting.set)
    with pytest.raises(Interruption):
        loop.run_forever()
    thread.join()


def test_events_that_came_with_a_raising_signal_are_not_lost(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Data that arrives together with a raising signal is read when the loop is run again."""

    def handler(_number: int, _frame: object) -> None:
        raise Interruption

    signal.signal(signal.SIGUSR1, handler)
    libc = ctypes.PyDLL(None)  # Its calls keep the GIL: the loop cannot run between the two.

    async def receive(sock: socket.socket) -> bytes:
        async with asyncio.timeout(DEADLINE_S / 5):
            return await loop.sock_recv(sock, 100)

    with socket_pair() as (ours, theirs):
        switch_interval_s = sys.getswitchinterval()
        waiting = threading.Event()

        def send_and_signal() -> None:
            waiting.wait(DEADLINE_S)
            sys.setswitchinterval(10)
            libc.send(theirs.fileno(), b"data", 4, 0)
            libc.kill(os.getpid(), signal.SIGUSR1)
            sys.setswitchinterval(switch_interval_s)

        thread = threading.Thread(target=send_and_signal)
        thread.start()
        task = loop.create_task(receive(ours))
        loop.run_until_complete(ticks(2))
        loop.call_soon(waiting.set)
        with pytest.raises(Interruption):
            loop.run_until_complete(task)
        thread.join()
        assert b"data" == loop.run_until_complete(task)


def test_signals_that_cannot_be_handled_are_refused(run: Run) -> None:
    """Numbers out of range, SIGKILL and coroutines give the errors that asyncio documents."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match=r"out of range|invalid signal"):
            loop.add_signal_handler(1000, print)
        with pytest.raises(RuntimeError):
            loop.add_signal_handler(signal.SIGKILL, print)
        with pytest.raises(TypeError):
            loop.add_signal_handler(signal.SIGUSR1, ticks, 1)

    run(main())


def test_wakeup_descriptor_is_given_back(run: Run) -> None:
    """After a run the interpreter has no wake-up descriptor of the loop."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, print)

    run(main())
    assert -1 == signal.set_wakeup_fd(-1)


def test_foreign_wakeup_descriptor_stays(loop: asyncio.AbstractEventLoop) -> None:
    """A wake-up descriptor that the program has set is kept through a run."""
    with socket_pair() as (ours, _theirs):
        signal.set_wakeup_fd(ours.fileno())
        try:
            loop.run_until_complete(ticks(3))
        finally:
            assert ours.fileno() == signal.set_wakeup_fd(-1)


def test_ctrl_c_cancels_main_and_ends_the_program(script: Script) -> None:
    """Under a Runner SIGINT cancels the main task, which cleans up; KeyboardInterrupt follows."""
    process = script(
        """
        async def main():
            try:
                print("ready")
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                print("cleaned up")
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    assert "ready\n" == process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert ("cleaned up\ninterrupted\n", "") == (output, errors)


def test_ctrl_c_interrupts_a_callback_that_computes(script: Script) -> None:
    """SIGINT raises KeyboardInterrupt in a callback that does not return by itself."""
    process = script(
        """
        def spin():
            print("ready")
            while True:
                pass
        loop = new_loop()
        loop.call_soon(spin)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            print("interrupted")
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        print("closed")
        """
    )
    assert "ready\n" == process.stdout.readline()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert ("interrupted\nclosed\n", "") == (output, errors)


def test_sigterm_handler_ends_a_program_in_order(script: Script) -> None:
    """`add_signal_handler(SIGTERM)` lets a program end with its own status."""
    process = script(
        """
        import signal, sys
        async def main():
            stopping = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
            print("ready")
            await stopping.wait()
            return 7
        with asyncio.Runner(loop_factory=new_loop) as runner:
            sys.exit(runner.run(main()))
        """
    )
    assert "ready\n" == process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert 7 == process.wait(DEADLINE_S)


def test_sigterm_without_a_handler_ends_the_program(script: Script) -> None:
    """SIGTERM keeps its default action where the program sets no handler."""
    process = script(
        """
        async def main():
            print("ready")
            await asyncio.Event().wait()
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        """
    )
    assert "ready\n" == process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert -signal.SIGTERM == process.wait(DEADLINE_S)
