"""Servers that suites need: started for a session, on loopback, ended after it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def service(name: str, folder: Path) -> Iterator[dict[str, str]]:
    """Run the server `name` for the length of the block; gives variables that tests need."""
    if not name:
        yield {}
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with _STARTED_BY[name](folder) as variables:
        yield variables


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[dict[str, str]]:
    program = shutil.which("redis-server")
    if program is None:
        raise RuntimeError("redis-server is not installed; on Debian, apt-get install redis-server")
    command = [program, "--bind", "127.0.0.1", "--port", "6379", "--dir", str(folder), "--save", ""]
    with subprocess.Popen(
        [*command, "--enable-debug-command", "yes"], stdout=subprocess.DEVNULL
    ) as server:
        try:
            _wait_for(6379)
            yield {}
        finally:
            server.terminate()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"nothing listens on port {port} after 10 s")


_STARTED_BY = {"redis": _redis}
