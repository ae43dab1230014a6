"""The reference agrees with itself: random programs end, twice alike, and leave nothing open."""

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
    """Whatever differs from run to run is not in what is compared."""
    n_open = len(os.listdir("/proc/self/fd"))
    assert _run_in_new_folder(case) == _run_in_new_folder(case)
    assert n_open == len(os.listdir("/proc/self/fd"))
