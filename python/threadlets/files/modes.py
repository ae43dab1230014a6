"""The mode of a file, `"r+b"` and the like: what it allows, and what it asks of the kernel."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """A mode, taken apart."""

    text: str
    """As it was given."""
    action: str
    """r, w, a or x."""
    is_binary: bool
    is_updating: bool

    @property
    def readable(self) -> bool:
        """Whether the file can be read."""
        return self.action == "r" or self.is_updating

    @property
    def writable(self) -> bool:
        """Whether the file can be written."""
        return self.action != "r" or self.is_updating

    @property
    def flags(self) -> int:
        """The flags of open(2)."""
        both = self.readable and self.writable
        access = os.O_RDWR if both else os.O_RDONLY if self.readable else os.O_WRONLY
        return (
            access
            | {
                "r": 0,
                "w": os.O_CREAT | os.O_TRUNC,
                "a": os.O_CREAT | os.O_APPEND,
                "x": os.O_CREAT | os.O_EXCL,
            }[self.action]
        )

    @property
    def name(self) -> str:
        """What `file.mode` says: a text file tells what it was given, others what they are."""
        if not self.is_binary:
            return self.text
        if self.action in "xa":
            return f"{self.action}b+" if self.is_updating else f"{self.action}b"
        if not self.is_updating:
            return f"{self.action}b"
        # The builtin says of both that they are read, before CPython 3.15.
        return "rb+" if sys.version_info < (3, 15) else f"{self.action}b+"


def parse_mode(mode: str) -> Mode:
    """Take a mode apart.

    Raises:
        TypeError: it is no string.
        ValueError: there is no such mode.
    """
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    letters = set(mode)
    if letters - set("axrwb+t") or len(mode) > len(letters):
        raise ValueError(f"invalid mode: {mode!r}")
    if {"t", "b"} <= letters:
        raise ValueError("can't have text and binary mode at once")
    actions = letters & set("rwax")
    if len(actions) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    return Mode(mode, actions.pop(), "b" in letters, "+" in letters)


def check_text_arguments(
    mode: Mode,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> None:
    """Look at what goes with text only.

    Raises:
        TypeError: it is no string.
        ValueError: it is there for a binary file, or the text is to be unbuffered.
    """
    texts = (("encoding", encoding), ("errors", errors), ("newline", newline))
    for name, value in texts:
        if not isinstance(value, str | None):
            kind = type(value).__name__
            raise TypeError(f"open() argument {name!r} must be str or None, not {kind}")
    if mode.is_binary:
        for name, value in texts:
            if value is not None:
                raise ValueError(f"binary mode doesn't take {_article(name)} {name} argument")
    elif buffering == 0:
        raise ValueError("can't have unbuffered text I/O")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
