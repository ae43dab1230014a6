"""The bystander, the storm of requests, and the servers that the storm loads."""

from __future__ import annotations

import json
import shutil
import socket
import urllib.request
from typing import TYPE_CHECKING

import pytest

from benches import http_servers, peers, storm
from benches.placement import Placement, python, serving
from benches.scenario import Budget, NotApplicable
from benches.scenarios import bystander

if TYPE_CHECKING:
    from pathlib import Path

STORM = bystander.SCENARIO.cases[0]


def budget() -> Budget:
    """Return a budget of a moment."""
    return Budget(0.05, Placement.of_this_machine())


@pytest.mark.timeout(60)
def test_bystander_wakes_each_millisecond() -> None:
    """Its wake-ups are counted, and most of them are hardly late."""
    reading = bystander.measure(STORM, "alone", budget())
    assert 1 < reading.figures["n_wakeups"] <= 50
    assert reading.figures["n_wakeups"] == sum(reading.histograms["late"].values())
    assert reading.figures["late_us_p50"] < 100_000


@pytest.mark.timeout(60)
@pytest.mark.skipif(shutil.which("ab") is None, reason="ab is not installed")
def test_storm_is_answered_while_the_bystander_watches() -> None:
    """A storm leaves its own figures beside the bystander's."""
    figures = bystander.measure(STORM, "asyncio", budget()).figures
    assert figures["requests_per_s"] > 0
    assert 0 == figures["n_errors"]
    assert figures["n_wakeups"] > 0


@pytest.mark.parametrize("style", http_servers.STYLES)
def test_server_answers_with_the_page(style: str, tmp_path: Path) -> None:
    """Each style answers every request, the blocking half included."""
    cpus = {Placement.of_this_machine().server_cpu}
    argv = python("benches.http_servers", "asyncio", style, str(tmp_path))
    with serving(argv, cpus) as (_, first_line):
        url = f"http://127.0.0.1:{json.loads(first_line)['port']}/index.html"
        for _ in range(4):
            with urllib.request.urlopen(url, timeout=30) as response:
                assert http_servers.BODY == response.read()


def test_without_ab_there_is_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program is no failure; the reason names its package."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with (
        pytest.raises(NotApplicable, match="apt install apache2-utils"),
        storm.blowing(1, 1, 1, {0}),
    ):
        pytest.fail("a storm began without ab")


def test_without_nginx_it_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer is reported as unavailable before anything is measured."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(peers.PeerUnavailable, match="apt install nginx"):
        peers.require("nginx")


def test_figures_of_ab_are_found_by_name() -> None:
    """Lines that matter are read, with or without their units."""
    printed = (
        "Complete requests:      1000\nFailed requests:        2\n   (Connect: 0, Receive: 2)\n"
        "Non-2xx responses:      3\nRequests per second:    19763.58 [#/sec] (mean)\n"
    )
    expected = {"n_requests": 1000, "n_errors": 2, "n_refusals": 3, "requests_per_s": 19763.58}
    assert expected == storm.figures_of(printed)


def test_port_without_a_listener_fails_the_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that does not begin to listen is not waited for forever."""
    monkeypatch.setattr(storm, "_LISTEN_TIMEOUT_S", 0)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(storm.MeasurementFailed, match="Nobody listens"):
            storm._wait_until_listening(bound.getsockname()[1])
