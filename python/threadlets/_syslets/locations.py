"""Lines of the user's code, and errors that name them."""

from __future__ import annotations

import sys
from types import FrameType
from typing import NamedTuple

from threadlets.exceptions import SysletError, SysletTypeError

_PACKAGE = __name__.rpartition(".")[0]


class Location(NamedTuple):
    """A line of source."""

    filename: str
    line: int

    def __str__(self) -> str:
        return f"{self.filename}:{self.line}"

    def error(self, message: str) -> SysletError:
        """Return the error for a wrong program, which names this line."""
        return SysletError(message, *self)

    def type_error(self, message: str) -> SysletTypeError:
        """Return the error for a value of the wrong type, which names this line."""
        return SysletTypeError(message, *self)


def location_of(frame: FrameType) -> Location:
    """Return the line that a frame is at, or was at when it ended."""
    return Location(frame.f_code.co_filename, frame.f_lineno)


def user_location() -> Location:
    """Return the line that called into this package."""
    return location_of(user_frame())


def user_frame() -> FrameType:
    """Return the frame that called into this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame):
        frame = frame.f_back
    return frame


def _is_ours(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__"))
    return module == _PACKAGE or module.startswith(_PACKAGE + ".")
