"""The demonstration, shortened: real server, real sockets, every kind of client."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.site.load import Plan, new_outcome
from examples.site.server_process import ServerFailed, ServerProcess

_ROOT = Path(__file__).parents[2]


def test_demo_answers_every_request_and_ends_by_itself(database: Path) -> None:
    """A short load on a few connections ends with status 0 and a row for each endpoint."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "examples.site.demo",
            "--seconds",
            "1.5",
            "--connections",
            "40",
            "--think-ms",
            "50",
        ],
        cwd=_ROOT,
        env=os.environ | {"SITE_DATABASE": str(database)},
        text=True,
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    for row in ("GET /", "/api/search", "/report", "/ws (echo)", "/events", "All requests were"):
        assert row in done.stdout


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
