"""``threadlets doctor app``: runs an application's import and start-up in a process of its own.

That process may hang, end itself or leave processes behind: whatever is left of it is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from threadlets.cli._findings import Finding

_PR_SET_CHILD_SUBREAPER = 36
#: Import, start-up and shutdown have the limit each, and the interpreter has this.
_SPARE_S = 20.0


def examine_application(
    target: str, *, app_dir: str, factory: bool, limit_s: float
) -> list[Finding]:
    """Return what will hurt an application on a threadlets loop; each stage may take `limit_s`."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        order = {
            "target": target,
            "app_dir": app_dir,
            "factory": factory,
            "limit_s": limit_s,
            "answer": str(answer),
        }
        argv = [sys.executable, "-m", "threadlets.cli._doctor_app_probe", json.dumps(order)]
        status = _carry_out(argv, limit_s=3 * limit_s + _SPARE_S)
        if answer.exists():
            return [Finding.from_json(it) for it in json.loads(answer.read_text())]
    return [_no_answer(target, status, limit_s)]


def _no_answer(target: str, status: int | None, limit_s: float) -> Finding:
    if status is None:
        cause = f"native code has kept the GIL for much longer than {limit_s:g} s"
        remedy = "look where it is: py-spy dump --native, or gdb"
    elif status < 0:
        cause = f"{signal.Signals(-status).name} has ended the process that imported it"
        remedy = f'look at its output above; python -X faulthandler -c "import {target.partition(":")[0]}"'
    else:
        cause = f"it has ended its process with status {status}, by os._exit() for example"
        remedy = "let a module only define things; the program begins under __main__"
    fact = f"'{target}' cannot be looked at"
    return Finding("app", "problem", fact, cause, remedy, {"target": target})


def _carry_out(argv: list[str], *, limit_s: float) -> int | None:
    """Run a process, what it prints to standard error; return its status, None if it did not end.

    What it has started ends with it: such processes become children of this one.
    """
    before = set(_children())
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), start_new_session=True
    )
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _end_orphans(before)


def _end_orphans(before: set[int]) -> None:
    """End the children that this process was left, which may leave it others; not those from before."""
    deadline_s = time.monotonic() + _SPARE_S
    while (orphans := set(_children()) - before) and time.monotonic() < deadline_s:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> Iterator[int]:
    for path in Path("/proc/self/task").glob("*/children"):
        yield from map(int, path.read_text().split())
