"""Fixtures that run whole programs as processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

#: The folder of the module `waiting`.
_TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def script(start_prelude: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python program; kill its process at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str, *options: str) -> subprocess.Popen[str]:
        prelude = (
            "import asyncio, os, signal, sys, threading, time\nimport threadlets\n"
            f"sys.path.append({_TESTS!r})\nfrom waiting import eventually, wait_until\n"
            + start_prelude
        )
        process = subprocess.Popen(
            [sys.executable, "-u", *options, "-c", prelude + textwrap.dedent(source)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        # Its children are killed too: they hold its pipes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
