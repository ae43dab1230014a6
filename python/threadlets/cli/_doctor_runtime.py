"""What threadlets does on this machine: it is asked, in a process of its own, and decides itself.

A seccomp filter may kill a process that tries io_uring, which ends that process and not the command.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import threadlets
from threadlets._user_error import UserError
from threadlets.cli._findings import Finding
from threadlets.cli._limits import raise_descriptor_limit
from threadlets.http._cpus import usable_cpus

_TIMEOUT_S = 30.0


def examine_runtime() -> list[Finding]:
    """Return what threadlets does here, and why."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        argv = [sys.executable, "-m", "threadlets.cli._doctor_runtime", str(answer)]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return [_no_answer(f"it did not answer within {_TIMEOUT_S:.0f} s", "")]
        found: dict[str, Any] = json.loads(answer.read_text()) if answer.exists() else {}
    if done.returncode or "descriptors" not in found:
        return [_ended(done.returncode, done.stderr)]
    return list(_judge(found))


def _ended(status: int, output: str) -> Finding:
    if status < 0:
        name = signal.Signals(-status).name
        cause = f"{name} has ended a process that only asked for the engine"
        if name == "SIGSYS":
            cause += "; a seccomp filter kills processes that try io_uring"
        return _no_answer(cause, output)
    return _no_answer(f"a process that only asked for the engine has ended with {status}", output)


def _no_answer(cause: str, output: str) -> Finding:
    return Finding(
        "engine",
        "problem",
        "engine: threadlets cannot choose one here",
        cause,
        "THREADLETS_ENGINE=workers does without io_uring",
        {"kind": None},
        output,
    )


# -- what is made of the answers -------------------------------------------------------------------


def _judge(found: dict[str, Any]) -> Iterator[Finding]:
    yield _engine(found["engine"])
    yield _calls(found["calls"])
    yield _descriptors(found["descriptors"])
    n_workers = found["workers"]
    yield Finding(
        "workers",
        "ok",
        f"threadlets serve --workers auto: {n_workers} worker process{'es' if n_workers > 1 else ''}",
        data={"auto": n_workers},
    )


def _engine(found: dict[str, Any]) -> Finding:
    if "error" in found:
        return Finding(
            "engine",
            "problem",
            "engine: none; syslets and files fail",
            found["error"],
            "unset THREADLETS_ENGINE, or set it to workers",
            {"kind": None},
        )
    kind, n_threads = found["kind"], found["threads"]
    fact = f"engine: {kind}, at most {n_threads} thread{'s' if n_threads > 1 else ''}"
    if kind == "uring" and not found["features"]:
        return Finding(
            "engine",
            "note",
            fact,
            "rings work without the features that Linux 6.1 has brought",
            "boot Linux 6.1 or later: an operation that waits costs less then",
            found,
        )
    if kind == "uring":
        return Finding("engine", "ok", f"{fact}: {', '.join(found['features'])}", data=found)
    if os.environ.get("THREADLETS_ENGINE"):
        return Finding(
            "engine", "note", fact, found["note"], "unset THREADLETS_ENGINE to have the best", found
        )
    # The note is the library's own: why, and after the colon what helps.
    cause, _, remedy = found["note"].rpartition("): ")
    return Finding(
        "engine", "warning", fact, f"{cause})" if cause else found["note"], remedy, found
    )


def _calls(found: dict[str, Any]) -> Finding:
    if "error" in found:
        return Finding(
            "calls",
            "problem",
            "functions that block: a loop cannot call them",
            found["error"],
            "raise what the message names; ulimit -u and ulimit -n are the usual ones",
        )
    fact = f"functions that block: at most {found['threads_max']} threads"
    if found["monitor"] == "timer":
        return Finding(
            "calls",
            "warning",
            f"{fact}; one that blocks the loop is noticed after milliseconds only",
            "the kernel refuses a thread at idle priority (SCHED_IDLE)",
            "allow sched_setscheduler in the container's seccomp filter",
            found,
        )
    return Finding("calls", "ok", f"{fact}; noticed by {found['monitor']}", data=found)


def _descriptors(found: dict[str, Any]) -> Finding:
    if "error" in found:
        return Finding("serve_descriptors", "problem", **found["error"])
    n_now, n_needed = found["n_now"], found["n_needed"]
    if n_now < n_needed:
        return Finding(
            "serve_descriptors",
            "warning",
            f"threadlets serve: about {n_now} connections at a time",
            f"each needs a descriptor, and the hard limit of this process is {n_now}",
            f"ulimit -n {n_needed}, or LimitNOFILE={n_needed} of the service",
            found,
        )
    how = (
        f"raises the limit to {n_now}" if n_now > found["n_before"] else "leaves the limit as it is"
    )
    return Finding("serve_descriptors", "ok", f"threadlets serve: {how}", data=found)


# -- the process that is asked ---------------------------------------------------------------------


def _answer(file: str) -> None:
    found = {
        "engine": _or_error(lambda: threadlets.engine()._asdict()),
        "calls": _or_error(lambda: threadlets.run(_call())),
        "workers": usable_cpus(),
        # Last: it changes what this process may do.
        "descriptors": _descriptor_limit(),
    }
    Path(file).write_text(json.dumps(found))


async def _call() -> dict[str, Any]:
    # The monitor starts with the first call that is inline.
    await threadlets.Pool(start="inline").call(time.sleep, 0)
    await asyncio.sleep(0)
    return {it: threadlets.stats()[it] for it in ("monitor", "threads_max")}


def _or_error(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except (OSError, ValueError, RuntimeError) as error:
        return {"error": str(error)}


def _descriptor_limit() -> dict[str, Any]:
    try:
        return dataclasses.asdict(raise_descriptor_limit())
    except UserError as error:
        return {"error": {"fact": error.fact, "cause": error.cause, "remedy": error.remedy}}


if __name__ == "__main__":
    _answer(sys.argv[1])
