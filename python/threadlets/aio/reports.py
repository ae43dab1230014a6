"""What a watch has to say: a warning, and never an exception in the code that is watched.

A warning that a filter has made an error would be raised wherever the watch happens to look, which may be
in the middle of the loop's own bookkeeping. It is given to the loop's exception handler instead.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable

#: Says something, of the place in a frame if one is given.
Report = Callable[[str, types.FrameType | None], None]


def warn_without_raising(
    message: str, frame: types.FrameType | None, fail: Callable[[Exception], None]
) -> None:
    """Warn of `message`, at the line where `frame` is; `fail` is told of what that raises."""
    try:
        if frame is None:
            warnings.warn(message, RuntimeWarning, stacklevel=4)
            return
        warnings.warn_explicit(
            message,
            RuntimeWarning,
            frame.f_code.co_filename,
            frame.f_lineno,
            module=frame.f_globals.get("__name__"),
            registry=frame.f_globals.setdefault("__warningregistry__", {}),
        )
    except Exception as error:
        fail(error)
