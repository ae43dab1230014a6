"""Debug mode's look at what a request leaves behind in what it shares: with its thread, the process,
or the tasks that it has inherited from.

A request that suspends takes its context along and nothing else. What it changed elsewhere is the next
one's, whoever that is: this names who left it.
"""

from __future__ import annotations

import locale
import signal
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any

from threadlets.aio.reports import Report
from threadlets.fp import ledger

if TYPE_CHECKING:
    import decimal

#: A context, and the decimal context that it began with and therefore shares, both as numbers.
_began_with: ContextVar[tuple[int, int]] = ContextVar("threadlets.decimal")

#: The signal mask, the locale, the decimal context and its settings.
Snapshot = tuple[Any, Any, Any, Any]


class Leftovers:
    """Compares what is shared before and after each request of one loop."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._warned: set[tuple[str, str]] = set()

    def before(self, context: Context | None) -> Snapshot:
        """Note what a request finds; None: its context is not known.

        Raises:
            RuntimeError: code runs in the context already.
        """
        found = None
        if context is not None:
            found = _decimal_context(context)
            of, _ = context.get(_began_with, (0, 0))
            if of != id(context):
                # A copy has its original's: this is the first request in it.
                context.run(_began_with.set, (id(context), id(found)))
        return (_signal_mask(), locale.setlocale(locale.LC_ALL), found, _settings(found))

    def after(self, context: Context | None, subject: Any, before: Snapshot) -> None:
        """Warn of what a request has left changed."""
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
                "it is the whole process's; format with a library that takes the locale as an argument",
            )
        if context is None or found is None:
            return
        is_inherited = context[_began_with] == (id(context), id(found))
        if is_inherited and _settings(found) != settings:
            self._warn(
                subject,
                "a decimal context changed that the tasks share which inherited it",
                "use decimal.localcontext()",
            )

    def _warn(self, subject: Any, what: str, remedy: str) -> None:
        name, where = ledger.name_of(subject)
        if (name, what) not in self._warned:
            self._warned.add((name, what))
            message = f"{name} ({where}) has left {what}: the next request has it so; {remedy}"
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
    # Flags are raised by computing: they are no setting.
    if found is None:
        return None
    traps = tuple(found.traps.values())
    return found.prec, found.rounding, found.Emin, found.Emax, found.capitals, found.clamp, traps
