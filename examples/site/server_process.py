"""The site as a subprocess: start it, find its port, read its cost from /proc, stop it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_KEEP_ALIVE_S = 60


class ServerFailed(Exception):
    """The server did not start, or did not stop as it should."""


@dataclass(frozen=True)
class Cost:
    """What the process has used so far; `rss_peak_mb` and `rss_mb` are resident memory."""

    rss_peak_mb: float
    rss_mb: float
    cpu_s: float
    n_threads: int


class ServerProcess:
    """One `threadlets serve` on a free port, stopped at the end of the with-block."""

    def __init__(self) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", prefix="site-", suffix=".log")  # noqa: SIM115
        command = [
            *(sys.executable, "-m", "threadlets", "serve", "examples.site.app:app"),
            *("--app-dir", str(_ROOT), "--port", "0", "--no-access-log", "--lifespan", "on"),
            *("--timeout-keep-alive", str(_KEEP_ALIVE_S)),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )
        self.port = 0

    def __enter__(self) -> Self:
        try:
            self.port = self._wait_for_port()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._kill()
        self._log.close()

    def stop(self) -> int:
        """Ask for a graceful stop with SIGTERM and return the exit status."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ServerFailed(
                f"the server did not stop within {_STOP_TIMEOUT_S:.0f} s of SIGTERM\n{self.log()}"
            ) from None

    def cost(self) -> Cost:
        """Read the process's memory and CPU time; it must be running."""
        folder = Path("/proc") / str(self._process.pid)
        fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        # Split behind the name, which may contain spaces: utime and stime are fields 14 and 15.
        numbers = (folder / "stat").read_text().rpartition(")")[2].split()
        ticks = int(numbers[11]) + int(numbers[12])
        return Cost(
            rss_peak_mb=int(fields["VmHWM"].split()[0]) / 1024,
            rss_mb=int(fields["VmRSS"].split()[0]) / 1024,
            cpu_s=ticks / os.sysconf("SC_CLK_TCK"),
            n_threads=int(fields["Threads"]),
        )

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def complaints(self) -> list[str]:
        """Return the log's lines that report errors."""
        return [line for line in self.log().splitlines() if re.match("ERROR|Traceback", line)]

    def _wait_for_port(self) -> int:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if found := re.search(r"Serving \S+ on http://[\d.]+:(\d+)", self.log()):
                return int(found[1])
            if self._process.poll() is not None:
                raise ServerFailed(
                    f"the server ended with status {self._process.returncode}\n{self.log()}"
                )
            time.sleep(0.05)
        raise ServerFailed(f"no server after {_START_TIMEOUT_S:.0f} s\n{self.log()}")

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
