"""The storm of connections, in a network namespace of its own."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from benches.network import namespace
from benches.placement import Placement
from benches.scenario import Budget, Case, NotApplicable
from benches.scenarios import connections

CASE = Case("uvicorn-20", connections.SCENARIO.cases[0].metrics, {"n_connections": 20})


def measure() -> dict[str, float]:
    """Take a short measurement of asyncio."""
    return connections.measure(CASE, "asyncio", Budget(0.05, Placement.of_this_machine()))


@pytest.mark.timeout(60)
@pytest.mark.skipif(shutil.which("ab") is None, reason="ab is not installed")
def test_storm_of_connections_has_every_figure() -> None:
    """Each request is answered, and the counters are those of a namespace of its own."""
    try:
        namespace()
    except NotApplicable as reason:
        pytest.skip(str(reason))
    figures = measure()
    assert {metric.name for metric in CASE.metrics} <= figures.keys()
    assert (500, 0, 0) == (
        figures["n_requests"],
        figures["n_errors"],
        figures["n_listen_overflows"],
    )
    # So many requests take several hundredths of a second, the unit in which the kernel counts.
    assert figures["server_cpu_us_per_request"] > 0


def test_without_ab_connections_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program is no failure; the reason names its package."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(NotApplicable, match="apt install apache2-utils"):
        measure()


def test_without_a_namespace_connections_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system gives no namespace, the reason says what to do about it."""

    def refuse(argv: list[str], **_kwargs: Any) -> None:
        raise subprocess.CalledProcessError(1, argv, stderr="unshare: Operation not permitted")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(NotApplicable, match="run it as root"):
        namespace()
