"""Exceptions that threadlets raises in addition to those of the standard library."""

from __future__ import annotations

__all__ = ["FloatingPointStateChanged", "LeakError", "SysletError", "SysletTypeError"]


class SysletError(ValueError):
    """A syslet cannot be built as it is written; nothing of it has run.

    The message begins with the location in the user's code, which `filename` and `line` hold, too.
    """

    def __init__(self, message: str, filename: str, line: int) -> None:
        super().__init__(f"{filename}:{line}: {message}")
        self.filename = filename
        self.line = line


class SysletTypeError(SysletError, TypeError):
    """A syslet was given a value of the wrong type: a path for a descriptor, a test for a bool."""


class LeakError(RuntimeError):
    """A loop was closed while something was outstanding; the message names it.

    Raised only on request: with `leaks="raise"`, and in `threadlets.testing`.
    """


class FloatingPointStateChanged(RuntimeError):
    """Code left the floating-point state of its thread changed; raised only with `fp="raise"`.

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
