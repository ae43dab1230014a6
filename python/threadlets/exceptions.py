"""What threadlets raises that has no name in the standard library."""

from __future__ import annotations

__all__ = ["FloatingPointStateChanged", "LeakError", "SysletError", "SysletTypeError"]


class SysletError(ValueError):
    """A syslet cannot be built as it is written; nothing of it has run.

    The message opens with the place in the user's code; `filename` and `line` hold it.
    """

    def __init__(self, message: str, filename: str, line: int) -> None:
        super().__init__(f"{filename}:{line}: {message}")
        self.filename = filename
        self.line = line


class SysletTypeError(SysletError, TypeError):
    """A syslet was given something of the wrong type: a path for a descriptor, a test for a bool."""


class LeakError(RuntimeError):
    """A loop was closed while something was outstanding; the message names it.

    Raised only where it was asked for: by `leaks="raise"`, and in `threadlets.testing`.
    """


class FloatingPointStateChanged(RuntimeError):
    """Code left the floating-point state of its thread changed; raised where `fp="raise"` asks for it.

    The message names the code and what it changed; `name`, `where` ("file:line") and `changes` hold
    that. The state has been put back.
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
