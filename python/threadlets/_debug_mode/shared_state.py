"""Debug mode's check for shared state that a request leaves changed.

A request that suspends takes only its context along. What it has changed in its thread, in the
process, or in a decimal context that other tasks have inherited, too, is changed for the next
request: this module names the request that changed it.
"""

from __future__ import annotations

import locale
import signal
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from threadlets._debug_mode.reports import Report
from threadlets._introspection import locate

if TYPE_CHECKING:
    import decimal

#: The ids of a context, and of the decimal context that it began with and therefore shares.
_began_with: ContextVar[tuple[int, int]] = ContextVar("threadlets.decimal")

#: The signal mask, the locale, the decimal context and its settings.
Snapshot = tuple[Any, Any, Any, Any]


class SharedState:
    """Compares shared state before and after each request of one loop."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._warned: set[tuple[str, str]] = set()

    def before(self, context: Context | None) -> Snapshot:
        """Record the shared state that a request finds; `context` is None if it is not known.

        Raises:
            RuntimeError: code runs in the context already.
        """
        found = None
        if context is not None:
            found = _decimal_context(context)
            of, _ = context.get(_began_with, (0, 0))
            if of != id(context):
                # A copied context has its original's value: this is the first request in the copy.
                context.run(_began_with.set, (id(context), id(found)))
        return (_signal_mask(), locale.setlocale(locale.LC_ALL), found, _settings(found))

    def after(self, context: Context | None, subject: Any, before: Snapshot) -> None:
        """Warn of shared state that a request has left changed."""
        mask, its_locale, found, settings = before
        if _signal_mask() != mask:
            self._warn(
                subject,
                "the signal mask of its thread changed",
                "put it back before the request suspends",
            )
        if locale.setlocale(locale.LC_ALL) != its_locale:
            self._warn(
                subject,
                "the locale changed",
                "it belongs to the whole process; format with a library that takes the locale as an "
                "argument",
            )
        if context is None or found is None:
            return
        is_inherited = context[_began_with] == (id(context), id(found))
        if is_inherited and _settings(found) != settings:
            self._warn(
                subject,
                "a decimal context changed, which it shares with the tasks that inherited it",
                "use decimal.localcontext()",
            )

    def _warn(self, subject: Any, what: str, remedy: str) -> None:
        name, where = locate(subject)
        if (name, what) not in self._warned:
            self._warned.add((name, what))
            message = f"{name} ({where}) has left {what}: the next request finds it so; {remedy}"
            self._report(message, None)


def _signal_mask() -> set[signal.Signals | int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


_decimal_variable: ContextVar[decimal.Context] | None = None


def _decimal_context(context: Context) -> decimal.Context | None:
    """Return the decimal context that a context holds, without making one."""
    global _decimal_variable
    if _decimal_variable is None:
        _decimal_variable = next((it for it in context if it.name == "decimal_context"), None)
    return None if _decimal_variable is None else context.get(_decimal_variable)


def _settings(found: decimal.Context | None) -> Any:
    # Flags are left out: computations raise them, so they are no setting.
    if found is None:
        return None
    traps = tuple(found.traps.values())
    return found.prec, found.rounding, found.Emin, found.Emax, found.capitals, found.clamp, traps
