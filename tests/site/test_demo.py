"""The demonstration, shortened: real server, real sockets, every kind of client."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from examples.site.load import Plan, new_outcome
from examples.site.server_process import ServerFailed, ServerProcess
from examples.site.storm import Result, Server, Storm, StormFailed, blow, contenders, figures_of_ab
from examples.site.storm_chart import bar, chart

_ROOT = Path(__file__).parents[2]
_AB = """\
Complete requests:      80000
Failed requests:        3
   (Connect: 0, Receive: 1, Length: 1, Exceptions: 1)
Non-2xx responses:      2
Requests per second:    19810.12 [#/sec] (mean)
"""


def demo(
    database: Path, *options: str, n_descriptors: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the demonstration, within a limit of descriptors."""

    def limit() -> None:
        if n_descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (n_descriptors, n_descriptors))

    return subprocess.run(
        [sys.executable, "-m", "examples.site.demo", *options],
        cwd=_ROOT,
        env=os.environ | {"SITE_DATABASE": str(database)},
        text=True,
        capture_output=True,
        timeout=90,
        check=False,
        preexec_fn=limit,
    )


def test_demo_answers_every_request_and_ends_by_itself(database: Path) -> None:
    """A short load and a short storm end with status 0 and a row for each endpoint."""
    done = demo(
        database,
        *("--seconds", "1.5", "--connections", "40", "--think-ms", "50"),
        *("--storm-clients", "10", "--storm-requests", "200"),
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    for row in ("GET /", "/api/search", "/report", "/ws (echo)", "/events", "All requests were"):
        assert row in done.stdout
    assert "A storm: 200 requests of 10 clients at a time" in done.stdout
    storm = done.stdout.partition("10 clients at a time")[2]
    for server in contenders():
        assert server.name in storm


def test_low_descriptor_limit_makes_the_demo_smaller(database: Path) -> None:
    """It says so, and everything that it still does succeeds."""
    done = demo(
        database,
        *("--seconds", "0.5", "--connections", "1000", "--think-ms", "50"),
        *("--storm-clients", "1000", "--storm-requests", "2000"),
        n_descriptors=300,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert 2 == done.stdout.count("200 connections: the descriptor limit of 300 allows no more")
    assert "of 200 clients at a time" in done.stdout


def test_storm_can_be_left_out(database: Path) -> None:
    """Nothing but the visit happens."""
    done = demo(
        database,
        "--seconds",
        "0.5",
        "--connections",
        "5",
        "--think-ms",
        "50",
        "--storm-requests",
        "0",
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "storm" not in done.stdout


def test_storm_without_ab_is_of_our_own_load(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request is answered, and costs the server something; nginx is named as missing."""
    monkeypatch.setenv("SITE_DATABASE", str(database))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    ours, _, nginx, _ = contenders()
    assert "apt install nginx" == nginx.missing
    result = blow(ours, Storm(n_clients=20, n_requests=1000))
    assert 0 == result.n_failed
    assert result.requests_per_s > 0
    assert result.cpu_us_per_request > 0


def test_refused_requests_of_ab_have_failed() -> None:
    """A status other than 2xx is no answer."""
    assert (5, 19810.12) == figures_of_ab(_AB)
    with pytest.raises(StormFailed, match="unable to connect"):
        figures_of_ab("unable to connect")


def test_server_of_a_storm_that_cannot_start_is_reported() -> None:
    """What it wrote is in the message."""
    broken = Server("broken", (sys.executable, "-c", "import sys; sys.exit('no such thing')"))
    with pytest.raises(StormFailed, match="broken did not start\nno such thing"):
        blow(broken, Storm(1, 1))


def test_bars_are_as_long_as_figures_are_large() -> None:
    """The largest is full; eighths of a cell count, and in ASCII whole cells only."""
    assert "█" * 24 == bar(7, 7)
    assert ("█" * 12).ljust(24) == bar(3.5, 7)
    assert " " * 24 == bar(0, 7) == bar(0, 0)
    assert 24 == len(bar(1, 3)) == len(bar(1, 1000))
    assert ("#" * 12).ljust(24) == bar(3.5, 7, has_blocks=False)


def test_chart_has_a_line_for_each_server() -> None:
    """Rate, CPU time and failures stand beside their bars."""
    console = Console(width=110)
    results = [Result("threadlets", 20_000, 30, 0), Result("uvicorn", 10_000, 60, 1234)]
    with console.capture() as captured:
        console.print(chart(results, "8,000 clients at a time", console))
    text = captured.get()
    for figure in ("20,000", "10,000", "1,234", "8,000 clients at a time"):
        assert figure in text


def test_server_that_cannot_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demonstration says why there is no server and shows its log."""
    path = tmp_path / "catalogue.sqlite3"
    path.write_text("no database" * 100)
    monkeypatch.setenv("SITE_DATABASE", str(path))
    with pytest.raises(ServerFailed, match="cannot open the catalogue"), ServerProcess():
        pass


@pytest.mark.parametrize("n_connections", [3, 39, 40, 2000])
def test_plan_spends_exactly_its_connections(n_connections: int) -> None:
    """Browsers, listeners and speakers add up to what was asked for."""
    plan = Plan(n_connections, seconds=1, think_s=1)
    assert n_connections == plan.n_browsers + plan.n_listeners + plan.n_speakers


def test_shares_of_the_mix_add_up_to_one() -> None:
    """The shares are a distribution."""
    assert 1 == pytest.approx(sum(row.share for row in new_outcome(["json"]).http))
