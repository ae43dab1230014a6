"""Fixtures that serve the applications of `apps`, each with a database of its own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served_apps import APPS, Application, Served

Start = Callable[..., Served]


@pytest.fixture(scope="module")
def serve_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Return the server of an application, which the tests of a module share."""
    started: dict[tuple[str, ...], Served] = {}

    def get(application: Application, *arguments: str) -> Served:
        missing = [it for it in application.packages if importlib.util.find_spec(it) is None]
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")
        key = (application.name, *arguments)
        if key not in started:
            database = tmp_path_factory.mktemp(application.name) / "notes.sqlite3"
            variables = {"HTTP_APPS_DATABASE": str(database)}
            started[key] = Served(application.target, *arguments, folder=APPS, variables=variables)
        return started[key]

    yield get
    for served in started.values():
        served.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Start]:
    """Return a function that serves an application, which is given as text, in a folder of its own."""
    started: list[Served] = []

    def start(source: str, *arguments: str, target: str = "service:app") -> Served:
        (tmp_path / "service.py").write_text(source)
        started.append(Served(target, *arguments, folder=tmp_path))
        return started[-1]

    yield start
    for served in started:
        served.stop()
