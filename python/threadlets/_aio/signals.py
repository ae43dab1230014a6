"""Signal handlers of a loop, also for coroutines that run while a function blocks the main thread.

The interpreter lets only the main thread change handlers. While the main thread is blocked, a handler
is changed in the kernel at once, and in the interpreter when the main thread is back. Either way the
loop learns of a signal by the byte that its handler writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import signal
import sys
import threading
from asyncio import coroutines, events
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from threadlets import _core

#: asyncio's own test; its public name warns since CPython 3.14.
_is_coroutine_function: Callable[[Any], bool]
if sys.version_info < (3, 14):
    _is_coroutine_function = coroutines.iscoroutinefunction
else:
    _is_coroutine_function = getattr(
        coroutines, "_iscoroutinefunction", inspect.iscoroutinefunction
    )


class SignalsMixin(_core.Dispatcher, asyncio.SelectorEventLoop):
    """The signal handling of `Loop`."""

    _csock: Any
    _home_id: int | None
    _signal_handlers: dict[int, events.Handle]
    _check_closed: Callable[[], None]
    _check_signal: Callable[[int], None]

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Call `callback(*args)` in the loop whenever the process gets this signal.

        Raises:
            RuntimeError: the signal cannot be handled, or the loop does not run on the main thread.
            ValueError: there is no such signal.
        """
        if not self._main_is_blocked():
            self._settle_signals()
            super().add_signal_handler(sig, callback, *args)
            if sig == signal.SIGINT:
                self._register_with_interpreter(sig)
            return
        if coroutines.iscoroutine(callback) or _is_coroutine_function(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        with _raising_as_asyncio(sig):
            self._write_signal(sig, self._csock.fileno())
        self._signal_handlers[sig] = events.Handle(callback, args, self, None)

    def remove_signal_handler(self, sig: int) -> bool:
        """Let a signal do again what it does without a handler; return whether there was one."""
        if not self._main_is_blocked():
            self._settle_signals()
            is_removed = super().remove_signal_handler(sig)
            if not self._signal_handlers and self._home_id == threading.get_ident():
                # asyncio has unset the wake-up descriptor, which the poll needs.
                signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
            return is_removed
        self._check_signal(sig)
        if self._signal_handlers.pop(sig, None) is None:
            return False
        with _raising_as_asyncio(sig):
            if sig == signal.SIGINT:
                # The interpreter raises KeyboardInterrupt: by `_signal_arrived` if its table has
                # that already, else by the previous handler, until `_settle_signals`.
                self._pass_signal(sig)
            else:
                self._default_signal(sig)
        return True

    def _main_is_blocked(self) -> bool:
        """Whether this thread runs coroutines in place of the blocked main thread."""
        this, main = threading.get_ident(), threading.main_thread().ident
        return this == self._thread_id and self._home_id == main != this

    def _settle_signals(self) -> None:
        """Tell the interpreter of handlers that were changed while the main thread was blocked.

        Raises whatever the handler of a pending signal raises; the rest is told the next time.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._interim_signals():
            # No longer interim if the blocked function has set a handler itself since.
            if self._is_interim(number):
                if number in self._signal_handlers:
                    self._register_with_interpreter(number)
                elif number == signal.SIGINT:
                    signal.signal(number, signal.default_int_handler)
                else:
                    signal.signal(number, signal.SIG_DFL)
            self._end_interim(number)

    def _register_with_interpreter(self, number: int) -> None:
        """Have the interpreter write a signal's number to the self-pipe that the loop reads."""
        signal.set_wakeup_fd(self._csock.fileno())
        signal.signal(number, _signal_arrived)
        signal.siginterrupt(number, False)

    @contextlib.contextmanager
    def _waking_on_signals(self) -> Iterator[None]:
        """Let any signal end the poll, so that its Python handler runs at once.

        Without this, a signal that arrives just before the poll is seen only after the next event.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours = self._csock.fileno()
        previous = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        if previous not in (-1, ours):
            # The program has set a descriptor of its own: keep it.
            signal.set_wakeup_fd(previous)
        try:
            yield
        finally:
            try:
                self._settle_signals()
            finally:
                if not self._signal_handlers:
                    current = signal.set_wakeup_fd(-1)
                    if current not in (-1, ours):
                        signal.set_wakeup_fd(current)

    def _close_self_pipe(self) -> None:
        self._forget_signals(self._csock.fileno())
        super()._close_self_pipe()

    def _after_fork(self) -> None:
        super()._after_fork()
        if getattr(self, "_csock", None) is None:
            return
        self._settle_signals()
        # A byte that the child writes would reach its parent's loop. Since CPython 3.12 asyncio
        # prevents that itself.
        ours = self._csock.fileno()
        self._forget_signals(ours)
        previous = signal.set_wakeup_fd(-1)
        if previous not in (-1, ours):
            signal.set_wakeup_fd(previous)


def _signal_arrived(number: int, frame: FrameType | None) -> None:
    """Do nothing, as the loop reads the signal's number; interrupt if it no longer handles SIGINT."""
    if _core.take_passed(number):
        signal.default_int_handler(number, frame)


@contextlib.contextmanager
def _raising_as_asyncio(sig: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise RuntimeError(f"sig {sig} cannot be caught") from None
        raise
