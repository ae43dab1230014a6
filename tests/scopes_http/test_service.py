"""The service as it is started, and a short run of its demonstration."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path

import pytest
import threadlets
from serving import Served, client, encoded, rest, run, serving, vanish
from waiting import eventually

from examples.scopes.answer import Answer
from examples.scopes.database import Database
from examples.scopes.http import Request
from examples.scopes.service import Service
from examples.scopes.upstream import UpstreamCounts, start_upstream
from examples.site.catalogue import open_catalogue

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the catalogue once; tests only read it."""
    path = tmp_path_factory.mktemp("scopes") / "catalogue.sqlite3"
    open_catalogue(path).close()
    return path


def _visit(catalogue: Path, story: Callable[[Served, UpstreamCounts], Awaitable[None]]) -> None:
    """Run a story with a service and with the upstream services that it asks."""

    async def main() -> None:
        counts = UpstreamCounts()
        async with await start_upstream(counts) as upstream:
            address = upstream.sockets[0].getsockname()
            service = Service(catalogue, {"usage": address, "ratings": address})
            async with serving(service.handle) as served:
                await story(served, counts)
            service.close()

    run(main)


async def _lines(served: Served, path: str) -> dict[str, object]:
    sock = client(served.address, encoded(path, version="1.0"))
    body = (await rest(sock)).partition(b"\r\n\r\n")[2]
    return {name: it for line in body.splitlines() for name, it in json.loads(line).items()}


def test_dossier_has_its_four_parts(catalogue: Path) -> None:
    """The parts are a query, a file, and the answers of two services."""

    async def story(served: Served, _counts: UpstreamCounts) -> None:
        dossier = await _lines(served, "/dossier/json?wait_s=0")
        assert {"members", "source", "usage", "ratings"} == set(dossier)
        assert ["dump", "function"] == dossier["members"][0][:2]  # type: ignore[index]

    _visit(catalogue, story)


def test_what_is_late_is_named(catalogue: Path) -> None:
    """The parts that are ready before the deadline are sent; the others are named."""

    async def story(served: Served, counts: UpstreamCounts) -> None:
        dossier = await _lines(served, "/dossier/json?wait_s=200&deadline_s=0.5")
        assert ["ratings", "usage"] == dossier["late"]
        await eventually(lambda: not counts.open)
        assert (0, 2) == (counts.answered, counts.left)

    _visit(catalogue, story)


def test_service_that_does_not_answer_is_a_part_that_is_missing(catalogue: Path) -> None:
    """The other parts are sent."""

    async def main() -> None:
        async with await start_upstream(UpstreamCounts()) as upstream:
            address = upstream.sockets[0].getsockname()
        service = Service(catalogue, {"usage": address})
        async with serving(service.handle) as served:
            dossier = await _lines(served, "/dossier/json?wait_s=0")
            assert {"members", "source", "usage"} == set(dossier)
            assert "problem" in dossier["usage"]  # type: ignore[operator]
        service.close()

    run(main)


@pytest.mark.parametrize(
    "path", ["/", "/dossier/", "/dossier/os.path", "/dossier/nothing", "/dossier/json?wait_s=x"]
)
def test_what_is_not_there(catalogue: Path, path: str) -> None:
    """It is answered with 404."""

    async def story(served: Served, _counts: UpstreamCounts) -> None:
        sock = client(served.address, encoded(path, version="1.0"))
        assert (await rest(sock)).startswith(b"HTTP/1.1 404 ")

    _visit(catalogue, story)


def test_query_of_a_client_that_has_gone_stops(tmp_path: Path) -> None:
    """The query under way is stopped, and those in the queue never begin."""

    async def main() -> None:
        database = Database(tmp_path / "empty", "queries", limit=1)
        n_ended = 0

        async def handle(request: Request, answer: Answer) -> None:
            nonlocal n_ended
            if request.path == "/quick":
                rows = await database.query("SELECT ?", "quick")
                return await answer.whole(HTTPStatus.OK, str(rows).encode())
            try:
                await database.query(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
                    " SELECT count(*) FROM n WHERE i < 0"
                )
            finally:
                n_ended += 1
            return None

        async with serving(handle) as served:
            slow = [client(served.address, encoded("/slow")) for _ in range(10)]
            await eventually(lambda: served.server.counts.begun == len(slow))
            # Wait until the first query has begun: before that it would need no stopping.
            await eventually(lambda: threadlets.stats()["blocked"] == 1)
            stays = asyncio.create_task(
                rest(client(served.address, encoded("/quick", "connection: close")))
            )
            for sock in slow:
                vanish(sock, by_reset=True)
            assert (await stays).endswith(b"[('quick',)]")
            await served.empty()
            assert (n_ended, database.n_stopped) == (len(slow), 1)
            assert (1, 10, 0) == served.ends()
        database.close()

    run(main)


def test_demonstration_ends_by_itself(catalogue: Path) -> None:
    """Its status is 0, and it prints a line for each phase."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.scopes.vanish", "--clients", "60", "--seconds", "0.5"],
        cwd=_ROOT,
        env=os.environ | {"SITE_DATABASE": str(catalogue)},
        text=True,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    for line in ("before:", "60 clients vanished", "after:", "108 closed before"):
        assert line in done.stdout
