"""Tracebacks that begin in the user's file: our frames and the import machinery's are left out."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

_OUR_FOLDER = f"{Path(__file__).parent}/"


def without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    """Drop the leading frames that belong to this package, to runpy and to importlib."""
    while traceback is not None and _is_ours(traceback.tb_frame.f_code.co_filename):
        traceback = traceback.tb_next
    return traceback


def _is_ours(filename: str) -> bool:
    return filename.startswith(
        (_OUR_FOLDER, "<frozen runpy>", "<frozen importlib", "<frozen zipimport")
    ) or filename.endswith(("/runpy.py", "/importlib/__init__.py"))
