"""One measurement: start a server, load it, print the figures as JSON.

``unshare --net --pid --fork --mount-proc python -m benches.seed PLAN``, where PLAN is JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benches import network
from benches.placement import ROOT, confined, raise_file_limit, run_pinned
from benches.scenario import MeasurementFailed
from benches.seed import account, loads, servers
from benches.seed.plan import PORT, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benches.scenario import Figures

_START_TIMEOUT_S, _STEADY_TIMEOUT_S = 30, 20
#: Requests before counting starts, and their concurrent connections.
_N_WARMUP, _N_WARMUP_CONNECTIONS = 2000, 50
#: The kernel's send buffer of a connection, in bytes. Otherwise it holds megabytes, and nobody waits.
_TCP_WMEM = "4096 16384 16384"

#: The loads that come to an end.
TIMED: dict[str, Callable[[Plan], Figures]] = {
    "new": loads.new,
    "kept": loads.kept,
    # The same, but the server cannot send an answer at once.
    "blocked": loads.kept,
    "slow": loads.slow,
}


def drive(plan: Plan) -> Figures:
    """Load one fresh server in this namespace, which nothing else uses.

    :raises MeasurementFailed: the server or the load failed.
    """
    raise_file_limit()
    network.raise_loopback()
    # Connections that have ended keep their ports for a while.
    network.set_kernel("net.ipv4.ip_local_port_range", f"{PORT + 1000} 65535")
    if plan.somaxconn is not None:
        network.set_kernel("net.core.somaxconn", str(plan.somaxconn))
    if plan.load in ("blocked", "slow", "stalled"):
        network.set_kernel("net.ipv4.tcp_wmem", _TCP_WMEM)
    with tempfile.TemporaryDirectory() as folder, running(plan, Path(folder)) as session:
        warmup = ["ab", "-q", "-r", "-c", str(_N_WARMUP_CONNECTIONS), "-n", str(_N_WARMUP)]
        run_pinned([*warmup, plan.url], set(plan.load_cpus), loads.TIMEOUT_S)
        if plan.load in TIMED:
            return _timed(plan, session)
        return _held(plan, session)


@contextlib.contextmanager
def running(plan: Plan, folder: Path) -> Iterator[int]:
    """Run the plan's server for the length of the block, in a session of its own; yield its id.

    :raises MeasurementFailed: it does not start, answers wrongly, or dies; its log is in the message.
    """
    argv = servers.command(plan, folder)
    log_path = folder / "log"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with log_path.open("w") as log, confined(set(plan.server_cpus)):
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_it_answers(plan, process)
        yield process.pid
        if process.poll() is not None:
            raise MeasurementFailed(f"the server ended with {process.returncode}")
    except MeasurementFailed as error:
        raise MeasurementFailed(f"{error}\n{log_path.read_text()[-1000:]}".strip()) from error
    finally:
        # The whole session: some servers leave their workers behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_it_answers(plan: Plan, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=_START_TIMEOUT_S)
            with contextlib.closing(connection):
                connection.request("GET", plan.path)
                answer = connection.getresponse()
                n_bytes = len(answer.read())
        except OSError as error:
            if process.poll() is not None or time.monotonic() > until:
                raise MeasurementFailed(f"the server does not listen: {error}") from error
            time.sleep(0.02)
        else:
            if (answer.status, n_bytes) != (200, plan.n_bytes):
                raise MeasurementFailed(f"the server answers {answer.status} with {n_bytes} bytes")
            return


def _timed(plan: Plan, session: int) -> Figures:
    """Return the figures of a load that comes to an end."""
    overflows_before = network.n_listen_overflows()
    cpu_before_s, began_s = account.cpu_s(session), time.monotonic()
    figures = TIMED[plan.load](plan)
    server_s = account.cpu_s(session) - cpu_before_s
    return figures | {
        "server_cpu_us_per_request": server_s * 1e6 / max(figures["n_requests"], 1),
        "server_busy": server_s / (time.monotonic() - began_s),
        "n_listen_overflows": float(network.n_listen_overflows() - overflows_before),
        "peak_rss_mib": account.peak_rss_mib(session),
        "somaxconn": float(network.kernel("net.core.somaxconn")),
    }


def _held(plan: Plan, session: int) -> Figures:
    """Return the memory of connections that are open."""
    before = _steady_memory(session)
    with loads.holding(plan, is_stalled=plan.load == "stalled"):
        after = _steady_memory(session)
    ours, kernels = (now - then for now, then in zip(after, before, strict=True))
    return {
        "bytes_each": ours / plan.n_connections,
        "kernel_bytes_each": kernels / plan.n_connections,
    }


def _steady_memory(session: int) -> tuple[float, float]:
    """Return the server's memory and the kernel's, in bytes, once the server does nothing any more."""
    until = time.monotonic() + _STEADY_TIMEOUT_S
    before = None
    while True:
        time.sleep(0.5)
        now = (account.rss_mib(session), round(account.cpu_s(session), 1))
        if now == before or time.monotonic() > until:
            return now[0] * 1024 * 1024, float(account.slab_bytes())
        before = now


def main(argument: str) -> int:
    """Measure, and print the figures, or why there are none."""
    try:
        result: dict[str, object] = {"figures": drive(Plan.from_json(argument))}
    except MeasurementFailed as error:
        result = {"failed": str(error)}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
