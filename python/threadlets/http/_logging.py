"""What the command logs, and how: messages on standard error, the access log on standard output.

`threadlets.http.serve` only logs; a program that calls it sets up logging itself.
"""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("threadlets.http")

#: `LEVEL:` and spaces up to this column, as uvicorn has it.
_COLUMN = 10


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return f"{record.levelname + ':':<{_COLUMN}}{record.message}"


def set_up_logging(level: str) -> None:
    """Write the messages of threadlets and of asyncio, from this level on, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    for name in ("threadlets", "asyncio"):
        found = logging.getLogger(name)
        found.handlers[:] = [handler]
        found.setLevel(level.upper())
        found.propagate = False
