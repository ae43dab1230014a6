"""Where processes run: the server on one CPU, the load on another, each process fresh and pinned."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benches.scenario import MeasurementFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Placement:
    """The CPUs of the two sides; the same one where the machine has only one."""

    server_cpu: int
    load_cpu: int

    @classmethod
    def of_this_machine(cls) -> Placement:
        """Take the first two CPUs that this process may use."""
        cpus = sorted(os.sched_getaffinity(0))
        return cls(server_cpu=cpus[0], load_cpu=cpus[min(1, len(cpus) - 1)])

    @property
    def together(self) -> Placement:
        """Both sides on the server's CPU."""
        return Placement(self.server_cpu, self.server_cpu)


def run_pinned(argv: Sequence[str | Path], cpus: set[int], timeout_s: float) -> str:
    """Run a process to its end on these CPUs and return what it printed.

    :raises MeasurementFailed: it exits with an error or takes too long.
    """
    with confined(cpus):
        process = subprocess.Popen(
            argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise MeasurementFailed(
                f"{_name(argv)} ran for more than {timeout_s:.0f} s."
            ) from error
        finally:
            process.kill()
    if process.returncode != 0:
        raise MeasurementFailed(
            f"{_name(argv)} exited with {process.returncode}: {stderr.strip()[-2000:]}"
        )
    return stdout


@contextlib.contextmanager
def serving(argv: Sequence[str | Path], cpus: set[int]) -> Iterator[tuple[int, str]]:
    """Run a server on these CPUs for the length of the block; yield its pid and first line.

    :raises MeasurementFailed: it ends before it prints a line, dies, or logs an error.
    """
    with confined(cpus):
        process = subprocess.Popen(
            argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    assert process.stdout is not None
    assert process.stderr is not None
    died = False
    failure: MeasurementFailed | None = None
    try:
        first_line = process.stdout.readline()
        if first_line:
            yield process.pid, first_line
        died = not first_line or process.poll() is not None
    except MeasurementFailed as error:
        # The load failed. Raise this later: an error that the server logged says more.
        failure = error
    finally:
        process.kill()
        stderr = process.stderr.read().strip()[-2000:]
        process.wait()
        process.stdout.close()
        process.stderr.close()
    if died or stderr:
        raise MeasurementFailed(f"{_name(argv)} died or logged an error: {stderr}") from failure
    if failure is not None:
        raise failure


def peak_rss_mib(pid: int) -> float:
    """Return the largest resident size that a running process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def raise_file_limit() -> None:
    """Allow as many open files as the hard limit does; children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def python(module: str, *args: str) -> list[str]:
    """Return the command line that runs a module of ours with this interpreter."""
    return [sys.executable, "-m", module, *args]


@contextlib.contextmanager
def confined(cpus: set[int]) -> Iterator[None]:
    """Pin this process while it starts another, which inherits the CPUs from its first moment."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _name(argv: Sequence[str | Path]) -> str:
    return " ".join(str(arg) for arg in argv)
