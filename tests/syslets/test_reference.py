"""The reference is deterministic: a random program ends alike twice, and leaves nothing open."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given

from .reference import Ending, run
from .strategies import Case, cases, snapshot


def _run_in_new_folder(case: Case) -> tuple[Ending, dict[str, object]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.make_folder(folder)
        fd = os.open(folder, os.O_RDONLY)
        try:
            return run(case.table, (fd,)), snapshot(folder)
        finally:
            os.close(fd)


@given(cases())
def test_random_programs_end_alike_every_time(case: Case) -> None:
    """Two runs of a program end alike, leave equal folders, and leave no descriptor open."""
    n_open = len(os.listdir("/proc/self/fd"))
    assert _run_in_new_folder(case) == _run_in_new_folder(case)
    assert n_open == len(os.listdir("/proc/self/fd"))
