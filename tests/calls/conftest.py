"""Run coroutines on a new loop within a deadline, and whole programs as processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import threadlets

from .harness import DEADLINE_S

Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    """Run a coroutine on a new threadlets loop; keywords are those of `new_event_loop`."""

    def run(main: Coroutine[Any, Any, Any], *, debug: bool = False, **options: Any) -> Any:
        async def within_deadline() -> Any:
            async with asyncio.timeout(DEADLINE_S):
                return await main

        return threadlets.run(within_deadline(), debug=debug, **options)

    return run


@pytest.fixture
def script() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python program; its process is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str, *options: str) -> subprocess.Popen[str]:
        prelude = "import asyncio, os, signal, sys, threading, time\nimport threadlets\n"
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
        # Its own children too: they hold its pipes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
