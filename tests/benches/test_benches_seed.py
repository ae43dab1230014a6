"""The seed's load: what the programs print, what a server has used, and one short measurement."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benches.goals import Goal
from benches.network import namespace
from benches.peers import OTHERS, PEERS
from benches.placement import Placement
from benches.scenario import Budget, MeasurementFailed, NotApplicable
from benches.scenarios import seed
from benches.seed import account, loads, servers
from benches.seed.__main__ import TIMED
from benches.seed.plan import Plan

if TYPE_CHECKING:
    from pathlib import Path

AB = """\
Complete requests:      80000
Failed requests:        3
   (Connect: 0, Receive: 1, Length: 1, Exceptions: 1)
Non-2xx responses:      2
Requests per second:    19810.12 [#/sec] (mean)

Percentage of the requests served within a certain time (ms)
  50%    331
  66%    340
  99%    424
 100%    500 (longest request)
"""
WRK = """\
Running 5s test @ http://127.0.0.1:8000/
  1 threads and 8000 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   100.00ms  200.00ms   1.20s    87.00%
  Latency Distribution
     50%  956.00us
     75%   10.00ms
     90%   20.00ms
     99%    1.20s
  378123 requests in 5.10s, 440.12MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:  74141.76
Transfer/sec:     86.30MB
"""
CASES = {case.name: case for case in seed.SCENARIO.cases}


def plan(**changed: object) -> Plan:
    """Return a plan of one connection."""
    budget = Budget(1, Placement.of_this_machine())
    made = seed.plan_of(CASES["new-asgi-1k"], "uvicorn", budget)
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def test_figures_of_ab() -> None:
    """A refused request has failed, too."""
    assert {
        "requests_per_s": 19810.12,
        "n_requests": 80000,
        "n_errors": 5,
        "latency_ms_p50": 331,
        "latency_ms_p99": 424,
    } == loads.ab_figures(AB)


def test_figures_of_wrk() -> None:
    """Latencies have units of their own; errors of every kind add up."""
    assert {
        "requests_per_s": 74141.76,
        "n_requests": 378123,
        "n_errors": 15,
        "latency_ms_p50": pytest.approx(0.956),
        "latency_ms_p99": 1200,
    } == loads.wrk_figures(WRK)


def test_wrk_without_errors_has_none() -> None:
    """wrk does not mention errors that did not happen."""
    lines = [line for line in WRK.splitlines() if "errors" not in line and "Non-2xx" not in line]
    assert 0 == loads.wrk_figures("\n".join(lines))["n_errors"]


@pytest.mark.parametrize("figures_of", [loads.ab_figures, loads.wrk_figures])
def test_output_without_a_rate_is_a_failure(figures_of: object) -> None:
    """What the program printed instead is in the message."""
    with pytest.raises(MeasurementFailed, match="unable to connect"):
        figures_of("unable to connect")  # type: ignore[operator]


def test_slow_readers_without_an_answer_have_failed() -> None:
    """The errors say why."""
    with pytest.raises(MeasurementFailed, match="the status is 503"):
        loads.slow_figures({"n_messages": 0, "errors": {"the status is 503": 7}})  # type: ignore[dict-item]


def test_a_goal_may_be_met_at_zero() -> None:
    """No more than a peer's none is none."""
    goal = Goal.parse("<=1x nginx")
    assert goal.met(0, {"nginx": 0}) is True
    assert goal.met(1, {"nginx": 0}) is False
    assert goal.met(0, {"lighttpd": 0}) is None


def test_account_covers_the_processes_of_a_session() -> None:
    """A child counts, before it has ended and after."""
    compute = "import time\nwhile time.process_time() < 0.2: pass\n"
    code = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {compute!r}], check=True)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "print(flush=True)\n"
        "input()\n"
        "child.communicate(b'end')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 2 == len(account.processes(process.pid))
        assert account.cpu_s(process.pid) >= 0.2
        together = account.rss_mib(process.pid)
        assert 0 < together <= account.peak_rss_mib(process.pid)
        process.communicate(b"\n")
    assert [] == account.processes(process.pid)
    assert 0 == account.cpu_s(process.pid)


def test_kernel_has_slabs() -> None:
    """The figure is one of the kernel's, in bytes."""
    assert account.slab_bytes() > 1024 * 1024


def test_every_peer_has_a_command(tmp_path: Path) -> None:
    """Each case can be started with each of its peers, and each application exists."""
    budget = Budget(1, Placement.of_this_machine())
    for case in CASES.values():
        for peer in case.peers or ():
            made = seed.plan_of(case, peer, budget)
            argv = servers.command(made, tmp_path)
            assert peer in (*PEERS, *OTHERS)
            if made.kind not in ("static", "fastapi") and peer not in ("nginx", "lighttpd"):
                module, _, name = servers.target(made).partition(":")
                assert hasattr(__import__(module, fromlist=[name]), name)
                assert any(name in argument for argument in argv)


def test_every_load_has_cases() -> None:
    """What the process of a measurement can do is measured."""
    loads_of_cases = {case.parameters["load"] for case in CASES.values()}
    assert {*TIMED, "idle", "stalled"} == loads_of_cases


def test_only_two_workers_of_ours_have_a_supervisor(tmp_path: Path) -> None:
    """The peer `one-worker` is compared with as many as the plan says."""
    two = plan(peer="threadlets", n_workers=2)
    assert ["--workers", "2"] == servers.command(two, tmp_path)[-2:]
    assert "--workers" not in servers.command(dataclasses.replace(two, peer="one-worker"), tmp_path)


def test_plan_survives_json() -> None:
    """It is handed to another process."""
    made = plan(somaxconn=None)
    assert made == Plan.from_json(made.to_json())


def test_short_measurement_has_fewer_requests() -> None:
    """Never less than two for each connection at a time."""
    placement = Placement.of_this_machine()
    numbers = [
        seed.plan_of(CASES["new-asgi-1k"], "nginx", Budget(seconds, placement)).n_requests
        for seconds in (0.1, 2.5, 5, 50)
    ]
    assert [16_000, 40_000, 80_000, 80_000] == numbers


def test_without_wrk_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names the package."""
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "wrk" else name)
    with pytest.raises(NotApplicable, match="apt install wrk"):
        seed.measure(CASES["new-asgi-1k"], "nginx", Budget(1, Placement.of_this_machine()))


@pytest.mark.timeout(120)
@pytest.mark.skipif(
    None in map(shutil.which, ("ab", "wrk", "cargo")), reason="ab, wrk or cargo is not installed"
)
@pytest.mark.parametrize(
    "name", ["new-wsgi-1k", "kept-wsgi-1k", "blocked-wsgi-80k", "slow-wsgi-80k", "idle-wsgi-1k"]
)
def test_every_load_has_every_figure(name: str) -> None:
    """A few connections, in namespaces of their own; no answer fails."""
    pytest.importorskip("gevent")
    try:
        namespace(with_processes=True)
    except NotApplicable as reason:
        pytest.skip(str(reason))
    parameters = {**CASES[name].parameters, "n_connections": 20}
    case = dataclasses.replace(CASES[name], parameters=parameters)
    figures = seed.measure(case, "gevent", Budget(0.01, Placement.of_this_machine()))
    assert {metric.name for metric in case.metrics} <= figures.keys() | {"latency_ms_p99"}
    assert 0 == figures.get("n_errors", 0)
    if "n_requests" in figures:
        assert figures["n_requests"] >= 40
        assert figures["peak_rss_mib"] > 5
