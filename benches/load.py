"""Build the load generator and run it against a server."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

from benches.peers import CEILING
from benches.placement import ROOT, peak_rss_mib, python, run_pinned, serving
from benches.scenario import MeasurementFailed

if TYPE_CHECKING:
    from pathlib import Path

    from benches.scenario import Budget, Figures

_CRATE = ROOT / "benches" / "loadgen"
_TARGET = ROOT / "target" / "loadgen"
_BINARY = _TARGET / "release" / "loadgen"


class LoadGeneratorUnavailable(Exception):
    """The load generator does not build."""


def build() -> Path:
    """Compile the load generator if its sources changed, and return the program.

    :raises LoadGeneratorUnavailable: cargo is missing or fails.
    """
    argv = ["cargo", "build", "--release", "--locked", "--target-dir", str(_TARGET)]
    # A RUSTFLAGS meant for the product must not change the load.
    environment = {name: value for name, value in os.environ.items() if name != "RUSTFLAGS"}
    try:
        subprocess.run(
            argv, cwd=_CRATE, env=environment, check=True, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise LoadGeneratorUnavailable(
            "cargo is not on the PATH; install Rust to run the scenarios that have a load side."
        ) from error
    except subprocess.CalledProcessError as error:
        raise LoadGeneratorUnavailable(
            f"{' '.join(argv)} failed in {_CRATE}:\n{error.stderr}"
        ) from error
    return _BINARY


def measure(
    command: str, style: str, n_connections: int, message_size: int, peer: str, budget: Budget
) -> Figures:
    """Start a fresh server of the peer, load it from a fresh process, return the figures.

    :raises MeasurementFailed: either side failed, or the server logged an error.
    """
    binary = build()
    argv: list[str | Path] = [*python("benches.servers", peer, style)]
    if peer == CEILING:
        argv = [binary, "serve"]
    with serving(argv, {budget.placement.server_cpu}) as (pid, first_line):
        port = int(json.loads(first_line)["port"])
        overflows_before = listen_overflows(_netstat())
        printed = run_pinned(
            [
                binary,
                command,
                *("--port", str(port)),
                *("--connections", str(n_connections)),
                *("--size", str(message_size)),
                *("--warmup-s", str(budget.warmup_s)),
                *("--seconds", str(budget.seconds)),
                *("--server-pid", str(pid)),
            ],
            {budget.placement.load_cpu},
            timeout_s=60 + 2 * budget.seconds,
        )
        n_overflows = listen_overflows(_netstat()) - overflows_before
        rss_mib = peak_rss_mib(pid)
    report: dict[str, Any] = json.loads(printed)
    errors = report.pop("errors")
    if report["n_messages"] == 0:
        raise MeasurementFailed(f"No message came back; errors: {errors}.")
    figures = {name: float(value) for name, value in report.items()}
    return figures | {"n_listen_overflows": float(n_overflows), "server_rss_mib": rss_mib}


def listen_overflows(netstat: str) -> int:
    """Return the count of connections that full accept queues turned away, from /proc/net/netstat."""
    lines = [line.split() for line in netstat.splitlines() if line.startswith("TcpExt:")]
    if len(lines) != 2 or "ListenOverflows" not in lines[0]:
        return 0
    names, values = lines
    return int(values[names.index("ListenOverflows")])


def _netstat() -> str:
    try:
        with open("/proc/net/netstat") as file:
            return file.read()
    except OSError:
        return ""
