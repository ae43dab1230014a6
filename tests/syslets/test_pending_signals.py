"""A signal that is pending, and not handled yet, is handled before a call waits for a program."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import operator
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from threadlets import CompletionRing, _core, sweep, syslet
from threadlets.atoms import Flow, nop, timeout

from .harness import with_every_atom, within_deadline

_BLOCKED_S = 3.0
_raise = getattr(ctypes.CDLL(None), "raise")


class Handled(Exception):
    """The handler of the tests raises this."""


@syslet
def _sleep() -> Any:
    yield timeout(_BLOCKED_S)


@syslet
def _nothing() -> Any:
    yield nop()


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Install a handler of SIGUSR1 that raises."""

    def handler(*_: Any) -> None:
        raise Handled

    before = signal.signal(signal.SIGUSR1, handler)
    yield
    signal.signal(signal.SIGUSR1, before)


def _after_a_signal(function: Callable[..., Any], *args: Any) -> None:
    """Call a native function with a signal pending; nothing else runs in between."""
    calls = (functools.partial(_raise, signal.SIGUSR1), functools.partial(function, *args))
    started_at = time.monotonic()
    with pytest.raises(Handled):
        list(map(operator.call, calls))
    assert time.monotonic() - started_at < _BLOCKED_S


def test_before_a_ring_waits(engine_kind: str) -> None:
    """The wait of a ring raises what the handler raises, and does not wait."""
    with CompletionRing() as ring:
        _after_a_signal(ring._native._wait, 1, _BLOCKED_S)


def test_before_a_sweep_waits(engine_kind: str) -> None:
    """The wait of a sweep, in a thread, raises what the handler raises."""
    with sweep(_sleep, [()]) as results:
        _after_a_signal(results._native.next_batch)


def test_before_a_program_is_run(nothing_leaks: None) -> None:
    """`run` raises what the handler raises, even if nothing of the program would block."""
    _after_a_signal(_sleep.native.execute, ())
    _after_a_signal(with_every_atom(_sleep, Flow.SYNC).native.execute, ())
    _after_a_signal(_nothing.native.execute, ())


def test_before_a_program_is_submitted_that_blocks(engine_kind: str) -> None:
    """`submit` raises what the handler raises, if a whole program is SYNC or one atom is."""
    with CompletionRing() as ring:
        submit = ring._native._submit
        _after_a_signal(submit, _sleep.native, (), None, None, int(Flow.SYNC))
        blocks = with_every_atom(_sleep, Flow.SYNC)
        if engine_kind != "sim":
            _after_a_signal(submit, blocks.native, (), None, None, 0)
        assert 0 == ring.outstanding


def test_before_a_program_is_awaited_that_blocks(clocked_engine: str) -> None:
    """An await raises what the handler raises, if an atom is SYNC."""

    async def main() -> None:
        native = with_every_atom(_sleep, Flow.SYNC).native
        _after_a_signal(native.begin, asyncio.get_running_loop(), ())

    within_deadline(main())


def test_before_an_engine_is_stopped(engine_kind: str) -> None:
    """Stopping the engine raises what the handler raises, and the engine continues to work."""
    _after_a_signal(_core.stop_engine)
    with CompletionRing() as ring:
        ring.submit(_nothing, flags=Flow.ASYNC)
        assert 1 == len(ring.wait())


def test_a_signal_interrupts_a_program_that_is_submitted_to_block(script: Any) -> None:
    """Ctrl-C ends a program that blocks in `submit`, however long it would take."""
    process = script(
        """
        @syslet
        def wait(fd):
            yield poll(fd, select.POLLIN)

        fd, _ = os.pipe()
        print("ready")
        CompletionRing().submit(wait, fd, flags=Flow.SYNC)
        """
    )
    assert "ready\n" == process.stdout.readline()
    for _ in range(50):
        if process.poll() is not None:
            break
        # If the program does not wait yet, it is interrupted before it does.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    assert process.returncode is not None
    assert "KeyboardInterrupt" in process.stderr.read()
