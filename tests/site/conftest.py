"""A site with a catalogue of its own, built once."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import threadlets

# The examples are no part of the installed package.
sys.path.insert(0, str(Path(__file__).parents[2]))

from site_harness import Visit, living

from examples.site.app import Site
from examples.site.catalogue import open_catalogue


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the catalogue once for all tests; they only read it."""
    path = tmp_path_factory.mktemp("site") / "catalogue.sqlite3"
    open_catalogue(path).close()
    return path


@pytest.fixture
def visit(database: Path) -> Visit:
    """Return a function that runs a coroutine function with a site, which it starts and stops."""

    def run(story: Callable[[Site], Awaitable[None]]) -> None:
        async def main() -> None:
            async with living(database) as site:
                await story(site)

        threadlets.run(main())

    return run
