"""What CPython allows on the main thread only, in coroutines while a function blocks that thread."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import threadlets
from waiting import eventually

from . import harness
from .harness import home_blocked, line, outcome

_LIBC = ctypes.CDLL(None)
_USED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGCHLD)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Restore handlers and the wakeup descriptor; nothing may be reported as unraisable."""
    before = [signal.getsignal(number) for number in _USED]
    unraisable: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, unraisable.append
    yield
    sys.unraisablehook = hook
    for number, handler in zip(_USED, before, strict=True):
        signal.signal(number, handler)
    assert not unraisable
    assert -1 == signal.set_wakeup_fd(-1)


@pytest.fixture
def program(script: Any) -> Callable[[str], Any]:
    """Start a program that can use `home_blocked`."""
    helpers = "".join(inspect.getsource(it) for it in (harness.wait_for, home_blocked))

    def start(source: str) -> Any:
        prelude = (
            "import contextlib\nfrom collections.abc import *\nfrom typing import Any\n"
            f"DEADLINE_S = {harness.DEADLINE_S}\n"
        )
        return script(prelude + helpers + inspect.cleandoc(source))

    return start


class Heard:
    """A handler that records the name and the thread of each call."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: list[threading.Thread] = []

    def __call__(self, name: str = "") -> None:
        """Record a call."""
        self.calls.append(name)
        self.threads.append(threading.current_thread())

    async def until(self, n_calls: int) -> list[str]:
        """Wait until `n_calls` calls have been made, and return their names."""
        await eventually(lambda: len(self.calls) >= n_calls)
        return self.calls


def send(number: int) -> None:
    """Send a signal to this process."""
    os.kill(os.getpid(), number)


def sleep_until_opened(gate: threading.Event) -> None:
    """Block in a function that handles signals, and goes on after each."""
    while not gate.wait(0.05):
        pass


def read_until_opened(gate: threading.Event) -> None:
    """Block in a C function that a signal does not end, and after which no handler runs."""
    source, target = os.pipe()
    opener = threading.Thread(
        target=lambda: (gate.wait(harness.DEADLINE_S), os.write(target, b"x"))
    )
    opener.start()
    _LIBC.read(source, ctypes.create_string_buffer(1), 1)
    opener.join()
    os.close(source)
    os.close(target)


BLOCKING = [harness.wait_for, sleep_until_opened, read_until_opened]


@pytest.mark.parametrize("function", BLOCKING)
def test_handler_works_from_the_next_line_on(run: Any, function: Any) -> None:
    """The handler saves the process from the signal, and still works when the main thread is back."""

    async def main() -> None:
        loop, heard = asyncio.get_running_loop(), Heard()
        async with home_blocked(function):
            loop.add_signal_handler(signal.SIGUSR1, heard, "usr1")
            send(signal.SIGUSR1)
            assert ["usr1"] == await heard.until(1)
            assert threading.main_thread() not in heard.threads
        assert callable(signal.getsignal(signal.SIGUSR1))
        send(signal.SIGUSR1)
        assert ["usr1"] * 2 == await heard.until(2)
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert not loop.remove_signal_handler(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

    run(main())


def test_signals_of_the_change_are_heard_once(run: Any) -> None:
    """No signal is lost or comes twice while the interpreter is told of the handler."""

    async def main() -> None:
        loop, heard = asyncio.get_running_loop(), Heard()
        for n_rounds in range(1, 51):
            async with home_blocked():
                loop.add_signal_handler(signal.SIGUSR1, heard)
                sender = threading.Thread(target=send, args=(signal.SIGUSR1,))
                sender.start()
            sender.join()
            await heard.until(n_rounds)
            assert loop.remove_signal_handler(signal.SIGUSR1)
        assert 50 == len(heard.calls)

    run(main())


def test_the_last_of_several_changes_counts(run: Any) -> None:
    """Replacing and removing handlers takes effect at once while the main thread is blocked."""

    async def main() -> None:
        loop, heard = asyncio.get_running_loop(), Heard()
        loop.add_signal_handler(signal.SIGUSR2, heard, "of home")
        async with home_blocked():
            loop.add_signal_handler(signal.SIGUSR1, heard, "replaced")
            loop.add_signal_handler(signal.SIGUSR1, heard, "one")
            loop.add_signal_handler(signal.SIGUSR2, heard, "two")
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                send(number)
            assert ["one", "two"] == sorted(await heard.until(2))
            assert loop.remove_signal_handler(signal.SIGUSR1)
            assert loop.remove_signal_handler(signal.SIGUSR2)
            assert not loop.remove_signal_handler(signal.SIGUSR2)
            loop.add_signal_handler(signal.SIGUSR2, heard, "three")
            send(signal.SIGUSR2)
            await heard.until(3)
        send(signal.SIGUSR2)
        assert ["three", "three"] == (await heard.until(4))[2:]
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

    run(main())


@pytest.mark.parametrize("added", ["before", "meanwhile"])
def test_removed_handler_leaves_the_default_action(program: Any, added: str) -> None:
    """The next signal after the removal ends the process."""
    process = program(
        f"""
        async def main():
            loop = asyncio.get_running_loop()
            if "{added}" == "before":
                loop.add_signal_handler(signal.SIGTERM, print)
            async with home_blocked():
                if "{added}" == "meanwhile":
                    loop.add_signal_handler(signal.SIGTERM, print)
                assert loop.remove_signal_handler(signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
                print("not reached")

        threadlets.run(main())
        """
    )
    assert (-signal.SIGTERM, "", "") == outcome(process)


@pytest.mark.parametrize("function", BLOCKING)
def test_handler_of_the_program_is_replaced_at_once(run: Any, function: Any) -> None:
    """A handler that `signal.signal` has set before is not called any more."""

    async def main() -> None:
        loop, heard = asyncio.get_running_loop(), Heard()
        signal.signal(signal.SIGUSR1, lambda *_: heard("the program's"))
        async with home_blocked(function):
            loop.add_signal_handler(signal.SIGUSR1, heard, "the loop's")
            send(signal.SIGUSR1)
            await heard.until(1)
        loop.remove_signal_handler(signal.SIGUSR1)
        assert ["the loop's"] == heard.calls
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

    run(main())


def test_handler_that_the_blocked_function_sets_later_stays(run: Any) -> None:
    """The handler that was set last stays."""

    async def main() -> None:
        loop, heard = asyncio.get_running_loop(), Heard()

        def handler(*_: Any) -> None:
            heard("the function's")

        def set_handler(gate: threading.Event) -> None:
            harness.wait_for(gate)
            signal.signal(signal.SIGUSR1, handler)

        async with home_blocked(set_handler):
            loop.add_signal_handler(signal.SIGUSR1, heard)
        assert signal.getsignal(signal.SIGUSR1) is handler
        assert loop.remove_signal_handler(signal.SIGUSR1)

    run(main())


def test_what_cannot_be_handled_is_refused_as_ever(run: Any) -> None:
    """The errors are those of the stock loop, and the attempt leaves nothing behind."""

    async def refusals() -> list[tuple[type[BaseException], str]]:
        loop = asyncio.get_running_loop()
        refused = []
        for number, callback in (
            (1000, print),
            (0, print),
            ("SIGUSR1", print),
            (signal.SIGKILL, print),
            (signal.SIGSTOP, print),
            (signal.SIGUSR1, harness.block_once),
        ):
            with pytest.raises((ValueError, TypeError, RuntimeError)) as error:
                loop.add_signal_handler(number, callback)  # type: ignore[arg-type]
            refused.append((error.type, str(error.value)))
        for number in (1000, "SIGUSR1"):
            with pytest.raises((ValueError, TypeError)) as error:
                loop.remove_signal_handler(number)  # type: ignore[arg-type]
            refused.append((error.type, str(error.value)))
        assert not loop.remove_signal_handler(signal.SIGKILL)
        return refused

    async def main() -> list[tuple[type[BaseException], str]]:
        async with home_blocked():
            return await refusals()

    assert asyncio.run(refusals()) == run(main())


def test_a_loop_of_another_thread_handles_no_signals() -> None:
    """A loop outside of the main thread refuses handlers, even while its thread is blocked."""
    refused: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with home_blocked():
            for change in (lambda: loop.add_signal_handler(signal.SIGUSR1, print),):
                with pytest.raises(RuntimeError) as error:
                    change()
                refused.append(str(error.value))
            assert not loop.remove_signal_handler(signal.SIGUSR1)

    thread = threading.Thread(target=threadlets.run, args=(main(),))
    thread.start()
    thread.join()
    assert 1 == len(refused)
    assert "main thread" in refused[0]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_handle_that_was_cancelled_is_removed(run: Any) -> None:
    """The handler is removed when the signal comes, as in asyncio."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, print)
        async with home_blocked():
            loop._signal_handlers[signal.SIGUSR1].cancel()
            send(signal.SIGUSR1)
            await eventually(lambda: not loop._signal_handlers)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL

    run(main())


def test_exception_of_another_handler_does_not_undo_the_change(run: Any) -> None:
    """The interpreter is told of the change by the end of the run, even if another handler raises."""
    loop, heard = threadlets.new_event_loop(), Heard()

    def fail(*_: Any) -> None:
        raise KeyError("of the handler")

    async def main() -> None:
        source, target = os.pipe()
        memory = ctypes.create_string_buffer(1)
        signal.signal(signal.SIGUSR2, fail)
        signal.siginterrupt(signal.SIGUSR2, False)
        for n_rounds in range(1, 21):
            with contextlib.suppress(KeyError):
                # A C function: no handler runs before it has returned.
                async with home_blocked(_LIBC.read, source, memory, 1):
                    loop.add_signal_handler(signal.SIGUSR1, heard)
                    send(signal.SIGUSR2)
                    threading.Thread(target=os.write, args=(target, b"x")).start()
                pytest.fail("the handler's exception was lost")
            send(signal.SIGUSR1)
            await heard.until(n_rounds)
        os.close(source)
        os.close(target)

    loop.run_until_complete(main())
    assert callable(signal.getsignal(signal.SIGUSR1))
    assert [] == loop._interim_signals()
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_the_poll_hears_of_signals_when_the_loop_handles_none_any_more(run: Any) -> None:
    """The wakeup descriptor stays set: a Python handler's signal just before the poll ends it."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        fd = loop._csock.fileno()
        loop.add_signal_handler(signal.SIGUSR1, print)
        loop.remove_signal_handler(signal.SIGUSR1)
        assert fd == signal.set_wakeup_fd(fd)
        loop.add_signal_handler(signal.SIGUSR1, print)
        async with home_blocked():
            loop.remove_signal_handler(signal.SIGUSR1)
        assert fd == signal.set_wakeup_fd(fd)

    run(main())


@pytest.mark.parametrize("added", ["before", "meanwhile", "both"])
def test_ctrl_c_interrupts_the_function_when_the_loop_handles_it_no_more(
    program: Any, added: str
) -> None:
    """Ctrl-C works as soon as the handler is removed; one that came before does not interrupt."""
    process = program(
        f"""
        import ctypes
        source, target = os.pipe()

        def block(gate):
            # A signal does not end this call, and no handler runs before it returns.
            ctypes.CDLL(None).read(source, ctypes.create_string_buffer(1), 1)
            print("went on")
            time.sleep(60)

        async def main():
            loop = asyncio.get_running_loop()
            handled = asyncio.Event()
            added = "{added}"
            if added != "meanwhile":
                loop.add_signal_handler(signal.SIGINT, handled.set)
            async with home_blocked(block):
                if added != "before":
                    loop.add_signal_handler(signal.SIGINT, handled.set)
                os.kill(os.getpid(), signal.SIGINT)
                await handled.wait()
                loop.remove_signal_handler(signal.SIGINT)
                os.write(target, b"x")
                await asyncio.sleep(60)

        # Without the runner's own handler of Ctrl-C.
        loop = threadlets.new_event_loop()
        try:
            loop.run_until_complete(main())
        except KeyboardInterrupt:
            print("interrupted")
            os._exit(3)
        """
    )
    assert "went on" == line(process)
    process.send_signal(signal.SIGINT)
    assert (3, "interrupted\n", "") == outcome(process)


def test_signal_of_a_forked_child_does_not_come_to_the_parent(program: Any) -> None:
    """The child has the handler, and no loop that its signals reach."""
    process = program(
        """
        async def main():
            loop = asyncio.get_running_loop()
            heard = asyncio.Event()
            async with home_blocked():
                loop.add_signal_handler(signal.SIGUSR1, heard.set)
                pid = os.fork()
                if not pid:
                    handler = signal.getsignal(signal.SIGUSR1)
                    os.kill(os.getpid(), signal.SIGUSR1)
                    os._exit(7 if callable(handler) and signal.set_wakeup_fd(-1) == -1 else 8)
                _, status = os.waitpid(pid, 0)
                print(os.waitstatus_to_exitcode(status))
                for _ in range(10):
                    await asyncio.sleep(0.001)
                print(heard.is_set())
                os.kill(os.getpid(), signal.SIGUSR1)
                await heard.wait()

        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        threadlets.run(main())
        """
    )
    assert (0, "7\nFalse\n", "") == outcome(process)
