"""Scenarios run for a moment, on asyncio alone."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from benches import cli
from benches.peers import CEILING
from benches.placement import Placement, python, serving
from benches.runner import Kept, measure, save, summarize_all
from benches.scenario import Budget, MeasurementFailed, NotApplicable
from benches.scenarios import transition
from benches.servers import STYLES


@pytest.mark.timeout(120)
def test_transition_runs_and_keeps_every_measurement(tmp_path: Path) -> None:
    """A scenario measures in fresh processes and its file holds each single figure."""
    cases = transition.SCENARIO.cases[1:2]
    budget = Budget(0.05, Placement.of_this_machine())
    kept = Kept()
    measure(transition.SCENARIO, cases, ["asyncio"], 3, budget, kept, lambda _: None)
    path = save(tmp_path, transition.SCENARIO, cases, {}, {}, kept)
    result = json.loads(path.read_text())
    assert [0, 1, 2] == [measurement["round_idx"] for measurement in result["measurements"]]
    assert all(measurement["error"] is None for measurement in result["measurements"])
    [row] = summarize_all(cases, kept.measurements)
    assert row.spreads["asyncio"].median > 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("style", STYLES)
def test_server_echoes_more_than_one_chunk(style: str) -> None:
    """Every style of server returns what it is sent, in order."""
    message = bytes(range(256)) * 1024
    cpus = {Placement.of_this_machine().server_cpu}
    with serving(python("benches.servers", "asyncio", style), cpus) as (_, first_line):
        port = json.loads(first_line)["port"]
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            received = b""
            for start in range(0, len(message), 32 * 1024):
                client.sendall(message[start : start + 32 * 1024])
                while len(received) < start + 32 * 1024:
                    received += client.recv(64 * 1024)
    assert message == received


@pytest.mark.timeout(60)
def test_server_that_dies_fails_the_measurement() -> None:
    """A crash is reported with what the process wrote, and not as a figure."""
    cpus = {Placement.of_this_machine().server_cpu}
    argv = python("benches.servers", "asyncio", "no-such-style")
    with pytest.raises(MeasurementFailed, match="KeyError"), serving(argv, cpus):
        pytest.fail("a server without a style has no port to print")


def test_ceiling_has_no_loop_to_measure() -> None:
    """The load generator's server takes part in socket scenarios only."""
    budget = Budget(0.05, Placement.of_this_machine())
    with pytest.raises(NotApplicable):
        transition.measure(transition.SCENARIO.cases[0], CEILING, budget)


def test_too_few_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A median needs three rounds."""
    assert 2 == cli.main(["transition", "--rounds", "2"])
    assert "at least 3" in capsys.readouterr().err
