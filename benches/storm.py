"""A storm: very many concurrent requests from ApacheBench, for some seconds, each on a connection."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benches.placement import ROOT, confined
from benches.scenario import MeasurementFailed, NotApplicable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benches.scenario import Figures

#: More than any server answers in the time, so that the time bounds a storm.
_N_REQUESTS_MAX = 500_000
_LISTEN_TIMEOUT_S = 10


@dataclass
class Storm:
    """A running storm; its figures are filled in when it is over."""

    process: subprocess.Popen[str]
    figures: Figures


@contextlib.contextmanager
def blowing(port: int, n_connections: int, seconds_max: float, cpus: set[int]) -> Iterator[Storm]:
    """Run a storm for the length of the block, which must take less than ``seconds_max``.

    :raises NotApplicable: ab is not installed.
    :raises MeasurementFailed: ab fails, ends before the block does, or does not end.
    """
    ab = shutil.which("ab")
    if ab is None:
        raise NotApplicable("ab is not on the PATH; apt install apache2-utils")
    _wait_until_listening(port)
    argv = [ab, "-q", "-r", "-c", str(n_connections), "-t", str(math.ceil(seconds_max))]
    # -n must come after -t, which sets a number of requests, too.
    argv += ["-n", str(_N_REQUESTS_MAX), f"http://127.0.0.1:{port}/index.html"]
    with confined(cpus):
        process = subprocess.Popen(
            argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    storm = Storm(process, {})
    with process:
        try:
            yield storm
            ended_early = process.poll() is not None
            # On SIGINT ab prints its figures so far, and exits with 1.
            process.send_signal(signal.SIGINT)
            printed, complaint = process.communicate(timeout=60)
        except subprocess.TimeoutExpired as error:
            raise MeasurementFailed("ab did not come to an end.") from error
        finally:
            process.kill()
    storm.figures.update(figures_of(printed))
    if ended_early or "requests_per_s" not in storm.figures:
        raise MeasurementFailed(
            f"ab ended before the measurement, with {process.returncode}: {complaint.strip()[-500:]}"
        )


def figures_of(printed: str) -> Figures:
    """Return the figures in the output of ab."""
    names = {
        "Requests per second": "requests_per_s",
        "Complete requests": "n_requests",
        "Failed requests": "n_errors",
        "Non-2xx responses": "n_refusals",
    }
    figures = {}
    for line in printed.splitlines():
        label, _, rest = line.partition(":")
        number = re.match(r"\s*([\d.]+)", rest)
        if label in names and number is not None:
            figures[names[label]] = float(number[1])
    return figures


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_until_listening(port: int) -> None:
    until = time.monotonic() + _LISTEN_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError as error:
            if time.monotonic() > until:
                raise MeasurementFailed(f"Nobody listens on port {port}.") from error
            time.sleep(0.01)
        else:
            return
