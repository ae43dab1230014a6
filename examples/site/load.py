"""A bounded load on the site: many visitors with keep-alive connections, for a fixed time.

Visitors pause between requests, so the offered load is bounded: connections / thinking time. If the
server falls behind, the latencies show it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from .load_http import Browser, Endpoint, Problems, encode_get
from .load_streams import Listener, Speaker

_CONNECTING_MAX = 100
_ANSWER_GRACE_S = 10.0
_CONNECT_TIMEOUT_S = 30.0
_SHOW_INTERVAL_S = 0.25
_SEARCHES = ("open file", "json", "queue get", "thread", "path exists", "async", "hash", "zip")

_Client = TypeVar("_Client", bound=asyncio.Protocol)


@dataclass(frozen=True)
class Plan:
    """The amount of load; `n_connections` includes listeners and speakers."""

    n_connections: int
    seconds: float
    think_s: float
    seed: int = 1

    @property
    def n_listeners(self) -> int:
        return max(1, self.n_connections // 40)

    @property
    def n_speakers(self) -> int:
        return max(1, self.n_connections // 40)

    @property
    def n_browsers(self) -> int:
        return max(1, self.n_connections - self.n_listeners - self.n_speakers)


@dataclass
class Outcome:
    """The measurements: rows for HTTP, and one each for listeners and speakers."""

    http: list[Endpoint]
    events: Endpoint
    echo: Endpoint
    problems: Problems = field(default_factory=Problems)
    n_connected: int = 0
    elapsed_s: float = 0.0

    @property
    def rows(self) -> list[Endpoint]:
        return [*self.http, self.echo, self.events]

    @property
    def n_answers(self) -> int:
        return sum(len(row.latencies_s) for row in self.rows)

    @property
    def n_errors(self) -> int:
        return sum(self.problems.counts.values())


def new_outcome(modules: list[str]) -> Outcome:
    """Make the rows of the load; the shares of the HTTP rows add up to 1."""
    searches = [encode_get(f"/api/search?q={text.replace(' ', '+')}") for text in _SEARCHES]
    details = [encode_get(f"/api/modules/{name}") for name in modules]
    lists = [encode_get(f"/api/modules?offset={offset}&limit=20") for offset in range(0, 400, 20)]
    http = [
        Endpoint("GET /", 0.25, [encode_get("/")]),
        Endpoint("GET /style.css", 0.20, [encode_get("/style.css")]),
        Endpoint("GET /api/modules/{name}", 0.28, details),
        Endpoint("GET /api/modules", 0.10, lists),
        Endpoint("GET /api/search", 0.15, searches),
        Endpoint("GET /report (blocks)", 0.02, [encode_get("/report")]),
    ]
    return Outcome(http, Endpoint("/events (interval)", 0, []), Endpoint("/ws (echo)", 0, []))


async def put_load(
    host: str, port: int, plan: Plan, outcome: Outcome, show: Callable[[str, float], None]
) -> None:
    """Connect all clients, let them visit for `plan.seconds`, and wait for the last answers.

    `show` gets the phase and its elapsed seconds a few times a second.
    """
    loop = asyncio.get_running_loop()
    chance = random.Random(plan.seed)
    choose = _chooser(outcome.http, chance)
    problems = outcome.problems
    connector = _Connector(host, port, outcome, show)
    browsers = await connector.connect(
        plan.n_browsers, lambda: Browser(loop, choose, plan.think_s, chance, problems)
    )
    listeners = await connector.connect(
        plan.n_listeners, lambda: Listener(loop, outcome.events, problems)
    )
    speakers = await connector.connect(
        plan.n_speakers, lambda: Speaker(loop, outcome.echo, problems, plan.think_s, chance)
    )
    clients: list[Browser | Listener | Speaker] = [*browsers, *listeners, *speakers]
    begin_s = loop.time()
    for client in clients:
        client.start()
    while (elapsed_s := loop.time() - begin_s) < plan.seconds:
        show("visiting", elapsed_s)
        await asyncio.sleep(min(_SHOW_INTERVAL_S, plan.seconds - elapsed_s))
    askers: list[Browser | Speaker] = [*browsers, *speakers]
    for asker in askers:
        asker.stop_asking()
    outcome.elapsed_s = loop.time() - begin_s
    while any(asker.is_waiting for asker in askers):
        late_s = loop.time() - begin_s - outcome.elapsed_s
        if late_s > _ANSWER_GRACE_S:
            break
        show("last answers", late_s)
        await asyncio.sleep(0.05)
    for client in clients:
        client.leave()
    await asyncio.sleep(0)


class _Connector:
    """Opens connections, a hundred at a time: more would overflow the server's backlog."""

    def __init__(
        self, host: str, port: int, outcome: Outcome, show: Callable[[str, float], None]
    ) -> None:
        self._address = (host, port)
        self._outcome = outcome
        self._show = show
        self._begin_s = asyncio.get_running_loop().time()

    async def connect(self, n_clients: int, make: Callable[[], _Client]) -> list[_Client]:
        connected: list[_Client] = []
        while n_clients > 0:
            n_now = min(n_clients, _CONNECTING_MAX)
            n_clients -= n_now
            found = await asyncio.gather(*(self._connect_one(make) for _ in range(n_now)))
            connected += [client for client in found if client is not None]
            self._show("connecting", asyncio.get_running_loop().time() - self._begin_s)
        return connected

    async def _connect_one(self, make: Callable[[], _Client]) -> _Client | None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, client = await loop.create_connection(make, *self._address)
        except OSError as error:
            # asyncio.timeout raises TimeoutError, an OSError as well.
            self._outcome.problems.add(f"cannot connect: {error or 'no answer'}")
            return None
        self._outcome.n_connected += 1
        return client


def _chooser(endpoints: list[Endpoint], chance: random.Random) -> Callable[[], Endpoint]:
    # Drawn in advance, since a weighted choice for each request would cost as much as the request.
    shares = [endpoint.share for endpoint in endpoints]
    return itertools.cycle(chance.choices(endpoints, shares, k=10_007)).__next__
