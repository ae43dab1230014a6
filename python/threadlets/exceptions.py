"""What threadlets raises that has no name in the standard library."""

from __future__ import annotations

__all__ = ["LeakError", "SysletError", "SysletTypeError"]


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
    """A loop was closed while something was outstanding; the message names it."""
