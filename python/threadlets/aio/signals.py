"""Signal handlers of a loop, also of coroutines that run while the main thread is blocked in a function.

The interpreter lets only the main thread change handlers. While that is blocked, the kernel is told at once, and
the interpreter when the main thread is back. The loop learns of a signal by the byte that it writes either way.
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
    """What `Loop` does about signals."""

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
                self._tell_interpreter(sig)
            return
        if coroutines.iscoroutine(callback) or _is_coroutine_function(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        with _refusal_as_asyncio_has_it(sig):
            self._write_signal(sig, self._csock.fileno())
        self._signal_handlers[sig] = events.Handle(callback, args, self, None)

    def remove_signal_handler(self, sig: int) -> bool:
        """Let a signal do again what it does without a handler; whether there was a handler."""
        if not self._main_is_blocked():
            self._settle_signals()
            is_removed = super().remove_signal_handler(sig)
            if not self._signal_handlers and self._home_id == threading.get_ident():
                # asyncio wants no more bytes; the poll does.
                signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
            return is_removed
        self._check_signal(sig)
        if self._signal_handlers.pop(sig, None) is None:
            return False
        with _refusal_as_asyncio_has_it(sig):
            if sig == signal.SIGINT:
                # KeyboardInterrupt is the interpreter's: by our handler if its table has that, otherwise it calls
                # the one before until it is told.
                self._pass_signal(sig)
            else:
                self._default_signal(sig)
        return True

    def _main_is_blocked(self) -> bool:
        """Whether this thread runs coroutines in place of the main thread."""
        this, main = threading.get_ident(), threading.main_thread().ident
        return this == self._thread_id and self._home_id == main != this

    def _settle_signals(self) -> None:
        """Tell the interpreter of handlers that were changed while the main thread was blocked.

        Raises what a handler raises of a signal that has come; the rest is told the next time.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._interim_signals():
            # The function that was blocked may have set a handler since.
            if self._is_interim(number):
                if number in self._signal_handlers:
                    self._tell_interpreter(number)
                elif number == signal.SIGINT:
                    signal.signal(number, signal.default_int_handler)
                else:
                    signal.signal(number, signal.SIG_DFL)
            self._end_interim(number)

    def _tell_interpreter(self, number: int) -> None:
        """Have the interpreter write a signal's number where the loop reads it."""
        signal.set_wakeup_fd(self._csock.fileno())
        signal.signal(number, _signal_arrived)
        signal.siginterrupt(number, False)

    @contextlib.contextmanager
    def _signals_wake(self) -> Iterator[None]:
        """Let any signal end the poll, so that its Python handler runs at once.

        Without it a signal that arrives just before the poll is seen only after the next event.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours = self._csock.fileno()
        previous = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        if previous not in (-1, ours):
            # Somebody else's descriptor: it stays.
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
        # A byte that the child wrote would come to its parent's loop. asyncio sees to that since CPython 3.12.
        ours = self._csock.fileno()
        self._forget_signals(ours)
        previous = signal.set_wakeup_fd(-1)
        if previous not in (-1, ours):
            signal.set_wakeup_fd(previous)


def _signal_arrived(number: int, frame: FrameType | None) -> None:
    """Do nothing: the loop reads the signal's number. But it may handle SIGINT no more."""
    if _core.take_passed(number):
        signal.default_int_handler(number, frame)


@contextlib.contextmanager
def _refusal_as_asyncio_has_it(sig: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise RuntimeError(f"sig {sig} cannot be caught") from None
        raise
