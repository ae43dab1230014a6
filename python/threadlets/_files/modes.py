"""The mode of a file, such as `"r+b"`: what it allows, and its flags of open(2)."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """A parsed mode."""

    text: str
    """The mode as it was given."""
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
        """The value of `file.mode`: for text the mode as it was given, for bytes a normal form."""
        if not self.is_binary:
            return self.text
        if self.action in "xa":
            return f"{self.action}b+" if self.is_updating else f"{self.action}b"
        if not self.is_updating:
            return f"{self.action}b"
        # Before CPython 3.15 the builtin has "rb+" for "w+b", too.
        return "rb+" if sys.version_info < (3, 15) else f"{self.action}b+"


def parse_mode(mode: str) -> Mode:
    """Parse a mode.

    Raises:
        TypeError: it is no string.
        ValueError: it is not a valid mode.
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
    """Check the arguments of `open` that are for text only.

    Raises:
        TypeError: one of them is no string.
        ValueError: one of them is given for a binary file, or a text file is to be unbuffered.
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
