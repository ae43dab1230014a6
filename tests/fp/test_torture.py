"""Thousands of requests that compute in different environments: all results are right here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gmpy2")

_ROOT = Path(__file__).parents[2]
_N_OPERATIONS = int(os.environ.get("THREADLETS_FP_OPERATIONS", "300000"))


_PROGRAM = """
import runpy, sys
runpy.run_module("benches.fp_torture", run_name="__main__", alter_sys=True)
"""


def _torture(peer: str, n_operations: int, prelude: str = "") -> dict[str, Any]:
    # A process of its own, because on other loops the program leaves the rounding changed.
    done = subprocess.run(
        [sys.executable, "-c", prelude + _PROGRAM, peer, str(n_operations)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@pytest.mark.starts("inline", "beside")
def test_no_result_is_wrong(start: str, start_prelude: str) -> None:
    """Results equal MPFR's bit for bit, despite take-overs, cancellations and careless requests."""
    figures = _torture("threadlets", _N_OPERATIONS, start_prelude)
    assert figures["n_operations"] >= _N_OPERATIONS
    assert (figures["n_takeovers"] > 0) == (start == "inline")
    assert {} == figures["wrong_by_kind"]


def test_the_same_program_is_wrong_on_asyncio() -> None:
    """If asyncio were right as well, the program would show nothing."""
    by_kind = _torture("asyncio", 50_000)["wrong_by_kind"]
    assert {"dot product, nearest", "errno", "interval, lower"} <= by_kind.keys()
