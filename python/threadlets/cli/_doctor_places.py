"""Places in a program: the line of the user's own code that a stack or a traceback has come from."""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

_OURS = f"{Path(__file__).parents[1]}/"
_STDLIB = tuple(f"{sysconfig.get_path(it)}/" for it in ("stdlib", "platstdlib"))
_SITE = ("/site-packages/", "/dist-packages/")
_IMPORTING = "<frozen importlib"


@dataclass(frozen=True)
class Place:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def source(self) -> str:
        """What stands in that line."""
        return linecache.getline(self.file, self.line).strip()


@dataclass(frozen=True)
class Standing:
    """Where a stack stands: the frame of the user's own line, and whether it imports something."""

    place: Place
    frame_id: int
    is_importing: bool


def standing_of(frame: FrameType | None) -> Standing | None:
    """Return the innermost line of the user's own in a stack, or else of an installed package.

    None if there is neither: an idle loop, for example.
    """
    other: tuple[FrameType, bool] | None = None
    is_importing = False
    while frame is not None:
        kind = _kind(frame.f_code.co_filename)
        if kind == "user":
            return _standing(frame, is_importing)
        if kind == "site" and other is None:
            other = (frame, is_importing)
        is_importing = is_importing or frame.f_code.co_filename.startswith(_IMPORTING)
        frame = frame.f_back
    return None if other is None else _standing(*other)


def place_of_traceback(traceback: TracebackType | None) -> Place | None:
    """Return the innermost line of the user's own in a traceback, or else of an installed package."""
    places = [Place(frame.f_code.co_filename, line) for frame, line in _walk(traceback)]
    return _last_of("user", places) or _last_of("site", places)


def _standing(frame: FrameType, is_importing: bool) -> Standing:
    return Standing(Place(frame.f_code.co_filename, frame.f_lineno), id(frame), is_importing)


def _walk(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _last_of(kind: str, places: Iterable[Place]) -> Place | None:
    return next((it for it in reversed([*places]) if _kind(it.file) == kind), None)


def _kind(file: str) -> str:
    # Code without a file, such as dataclasses make, belongs to the line that has called for it.
    if file.startswith(("<", _OURS)):
        return "ours"
    if any(it in file for it in _SITE):
        return "site"
    return "stdlib" if file.startswith(_STDLIB) else "user"
