"""Fixtures that run the real command in a subprocess, as its users do."""

from __future__ import annotations

import os
import re
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 20.0
COMMAND = (sys.executable, "-m", "threadlets")

Completed = subprocess.CompletedProcess[str]
RunCommand = Callable[..., Completed]

APP = """
import asyncio
from pathlib import Path

import threadlets

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        print("lifespan closed", flush=True)
        return
    if scope["path"] == "/wait":
        print("request in flight", flush=True)
        await scope["state"]["threadlets.stopping"].wait()
    if scope["path"] == "/forever":
        print("request in flight", flush=True)
        await asyncio.Event().wait()
    if scope["path"] == "/block":
        # Blocks the main thread until the named pipe is opened.
        print("request in flight", flush=True)
        await threadlets.Pool(start="inline").call(Path("gate").read_bytes)
    body = type(asyncio.get_running_loop()).__name__.encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def command(tmp_path: Path) -> RunCommand:
    """Run `threadlets ...` in an empty folder and return the completed process."""

    def run(*arguments: str, **options: Any) -> Completed:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
            **options,
        )

    return run


def limit_descriptors(limit: tuple[int, int] | None) -> Callable[[], None] | None:
    """Return a preexec function that sets a child's soft and hard descriptor limits."""
    if limit is None:
        return None
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit)


class Served:
    """A running `threadlets serve`, whose output is read as it comes."""

    def __init__(
        self, folder: Path, *arguments: str, descriptor_limit: tuple[int, int] | None
    ) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "serve", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            # Safe here: the tests start no threads before they fork.
            preexec_fn=limit_descriptors(descriptor_limit),
        )
        self.output = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read output until the pattern is there; fail at the deadline, or when the output ends."""
        assert self.process.stdout is not None
        deadline_s = time.monotonic() + DEADLINE_S
        while (found := re.search(pattern, self.output)) is None:
            remaining_s = deadline_s - time.monotonic()
            readable, _, _ = select.select([self.process.stdout], [], [], max(remaining_s, 0))
            assert readable, f"no {pattern!r} within {DEADLINE_S} s:\n{self.output}"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"the server ended before {pattern!r}:\n{self.output}"
            self.output += data.decode()
        return found

    def port(self) -> int:
        return int(self.wait_for(r"Serving \S+ on http://[\d.]+:(\d+)")[1])

    def end(self) -> int:
        """Wait for the process to end, keep the rest of its output, and return its exit status."""
        rest, _ = self.process.communicate(timeout=DEADLINE_S)
        self.output += rest.decode()
        return self.process.returncode


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Start `threadlets serve ...` in a folder that holds the test application `service:app`."""
    (tmp_path / "service.py").write_text(APP)
    started: list[Served] = []

    def start(*arguments: str, descriptor_limit: tuple[int, int] | None = None) -> Served:
        started.append(Served(tmp_path, *arguments, descriptor_limit=descriptor_limit))
        return started[-1]

    yield start
    for served in started:
        if served.process.poll() is None:
            served.process.kill()
        if served.process.stdout is not None and not served.process.stdout.closed:
            served.process.communicate()
