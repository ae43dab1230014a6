"""A PostgreSQL server for the tests: an empty cluster in a temporary folder, with a Unix socket."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

USER = "tests"
_DEADLINE_S = 60.0
# No data has to outlive the tests.
_SETTINGS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class Server:
    """A running server."""

    #: The folder of its socket.
    folder: Path
    _programs: Path

    def make_database(self, name: str) -> None:
        """Make an empty database, so that what a test has left open blocks no other test."""
        _run([self._programs / "createdb", "-h", self.folder, "-U", USER, name])


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Run a server while the block lasts; skip where PostgreSQL is not installed."""
    programs = _programs()
    # Not pytest's folder: the server's user may not enter it, and a socket's path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="threadlets-pg-"))
    options = _as_unprivileged_user(folder)
    data = folder / "data"
    try:
        initdb = [programs / "initdb", "-D", data, "-U", USER, "-A", "trust", "--no-sync"]
        _run([*initdb, "--no-locale", "-E", "UTF8"], **options)
        command = [programs / "postgres", "-D", data, "-k", folder, "-h", ""]
        command += [word for setting in _SETTINGS for word in ("-c", setting)]
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_the_tests,
                **options,
            )
        try:
            _wait_until_ready(process, data / "postmaster.pid", log)
            yield Server(folder, programs)
        finally:
            # Stop at once: the folder is removed anyway.
            process.send_signal(signal.SIGQUIT)
            process.wait(_DEADLINE_S)
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """Return the folder of the server's programs."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("postgres")
    if found is not None:
        candidates.insert(0, Path(found).resolve().parent)
    for folder in candidates:
        if all(
            os.access(folder / program, os.X_OK) for program in ("initdb", "postgres", "createdb")
        ):
            return folder
    pytest.skip("PostgreSQL's server is not installed; on Debian, apt-get install postgresql")


def _as_unprivileged_user(folder: Path) -> dict[str, Any]:
    """Give the folder to another user if this one is root: the server refuses to run as root."""
    if os.getuid():
        return {"cwd": folder}
    user = pwd.getpwnam("nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    # The folder is entered as root, so it must not be in the way of this process's own.
    return {"cwd": "/", "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _end_with_the_tests() -> None:
    """Have the kernel stop the server if the tests' process is killed."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _run(command: list[Any], **options: Any) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, **options)
    assert 0 == ran.returncode, ran.stderr


def _wait_until_ready(process: subprocess.Popen[bytes], status: Path, log: Path) -> None:
    """Wait until the server takes connections."""
    deadline_s = time.monotonic() + _DEADLINE_S
    while True:
        with contextlib.suppress(OSError, IndexError):
            # The eighth line of the file has the server's state.
            if status.read_text().splitlines()[7].strip() == "ready":
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.02)
