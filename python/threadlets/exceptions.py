"""Exceptions that threadlets raises in addition to those of the standard library and of asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadlets._introspection import BlockedFunction

__all__ = [
    "ClientDisconnected",
    "ConfigError",
    "DrainTimeoutError",
    "FloatingPointStateChanged",
    "LeakError",
    "MissingPackage",
    "SysletError",
    "SysletTypeError",
    "ThreadletsError",
]


class ThreadletsError(Exception):
    """The base class of all exceptions in this module.

    Each of them has a standard exception as its second base class, which `except` clauses can name,
    too. They can be pickled.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class: `args` are not what `__init__` takes, but the message that it makes.
        reduced = super().__reduce__()
        assert isinstance(reduced, tuple)
        return _restore, reduced[:2], *reduced[2:]


def _restore(cls: type[ThreadletsError], args: tuple[Any, ...]) -> ThreadletsError:
    """Return an exception with these `args`; unpickling sets its attributes."""
    error = cls.__new__(cls, *args)
    # An OSError whose class has an `__init__` leaves that to it.
    error.args = args
    return error


class SysletError(ThreadletsError, ValueError):
    """A syslet cannot be built as it is written; nothing of it has run.

    The message begins with the location in the user's code, which `filename` and `line` hold, too.
    """

    def __init__(self, message: str, filename: str, line: int) -> None:
        super().__init__(f"{filename}:{line}: {message}")
        self.filename = filename
        self.line = line


class SysletTypeError(SysletError, TypeError):
    """A syslet was given a value of the wrong type: a path for a descriptor, a test for a bool."""


class DrainTimeoutError(ThreadletsError, TimeoutError):
    """Requests of a scope have not ended in time; the message names them.

    `blocked` lists the functions that are blocked, each with its stack.
    """

    def __init__(self, message: str, blocked: list[BlockedFunction]) -> None:
        super().__init__(message)
        self.blocked = blocked


class LeakError(ThreadletsError, RuntimeError):
    """A loop was closed while something was outstanding; the message names it.

    Raised only on request: with `leaks="raise"`, and in `threadlets.testing`.
    """


class FloatingPointStateChanged(ThreadletsError, RuntimeError):
    """Code left the floating-point state of its thread changed, with `fp="raise"`.

    Raised in the awaiter of a call; of any other code, the loop's exception handler gets it.

    The message names the code and what it changed, which `name`, `where` ("file:line") and `changes`
    hold, too. The state has been restored.
    """

    def __init__(self, name: str, where: str, changes: str) -> None:
        super().__init__(
            f"{name} ({where}) has left the floating-point state changed: {changes}; set it in a "
            "block of threadlets.fp.environment(), or put it back before the function returns or "
            "the coroutine suspends"
        )
        self.name = name
        self.where = where
        self.changes = changes


class MissingPackage(ThreadletsError, ImportError):
    """A package that an adapter needs is not installed, or its version is not supported."""


class ClientDisconnected(ThreadletsError, ConnectionAbortedError):
    """The client that was to take what an application sends, or was sending the request, left.

    Raised in a WSGI application by `write()` and by reads of `wsgi.input`, and in an ASGI application by
    `send()`.
    """


class ConfigError(ThreadletsError, ValueError):
    """A field of a `threadlets.http.Config` has a value that it cannot have.

    `field` is its name and `value` what was given; `cause` says why that cannot be, and `remedy` what
    can.
    """

    def __init__(self, field: str, value: object, cause: str, remedy: str) -> None:
        super().__init__(field, value, cause, remedy)
        self.field = field
        self.value = value
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field} cannot be {self.value!r}: {self.cause}; {self.remedy}"
