"""Reports of debug mode's checks: warnings that never raise in the code that is checked.

A warning that a filter has made an error would be raised wherever the check happens to run, which
may be in the middle of the loop's own bookkeeping. The loop's exception handler gets it instead.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable

#: Reports a message, for the current line of a frame if one is given.
Report = Callable[[str, types.FrameType | None], None]


def warn_without_raising(
    message: str, frame: types.FrameType | None, fail: Callable[[Exception], None]
) -> None:
    """Warn with `message`, for the current line of `frame`; call `fail` with what warning raises."""
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
