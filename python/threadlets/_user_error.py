"""Errors that the user of a command can fix, as fact, cause and remedy.

Knows nothing of typer and rich: it must be able to report that they are missing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

STATUS_ENVIRONMENT = 1
STATUS_USAGE = 2
STATUS_INTERRUPTED = 130


@dataclass
class UserError(Exception):
    """An error that the user can fix, so it is shown without a traceback.

    `detail` is printed as it is above the message: the user's own traceback, for example.
    """

    fact: str
    cause: str
    remedy: str
    status: int = STATUS_ENVIRONMENT
    detail: str = ""
    is_one_line: bool = False

    def __str__(self) -> str:
        separator = "; " if self.is_one_line else "\n"
        return separator.join(
            (f"error: {self.fact}", f"cause: {self.cause}", f"remedy: {self.remedy}")
        )


def print_error(error: UserError) -> None:
    """Write the error to standard error."""
    if error.detail:
        print(error.detail.rstrip("\n"), file=sys.stderr)
    print(error, file=sys.stderr)
