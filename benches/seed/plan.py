"""What one measurement does: it is handed to a process in a namespace of its own as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from benches.seed.applications import SIZES

PORT = 8000
#: More than the connections of any load, so that the kernel's bound decides.
BACKLOG = 16384
#: How long an idle connection is kept, in seconds: longer than a measurement takes.
KEEP_ALIVE_S = 300


@dataclass(frozen=True)
class Plan:
    """One server, what it serves, and the load on it."""

    peer: str
    #: What is served: static, asgi, wsgi, fastapi, computing.
    kind: str
    #: How it is loaded: new, kept, blocked, slow, idle, stalled.
    load: str
    size: str
    n_connections: int
    #: How many requests, for loads that have a number.
    n_requests: int
    #: How long, for loads that have a duration.
    seconds: float
    n_workers: int
    server_cpus: tuple[int, ...]
    load_cpus: tuple[int, ...]
    #: The kernel's bound of a backlog; None: as it is.
    somaxconn: int | None = BACKLOG

    @property
    def path(self) -> str:
        """The path to ask for: every dynamic application takes that of the file, too."""
        return f"/{self.size}.txt" if self.kind != "fastapi" else "/"

    @property
    def n_bytes(self) -> int:
        """The size of an answer's body."""
        return SIZES[self.size]

    @property
    def url(self) -> str:
        """Where the server answers."""
        return f"http://127.0.0.1:{PORT}{self.path}"

    def to_json(self) -> str:
        """Return the text that `from_json` takes."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan."""
        fields = json.loads(text)
        cpus = {name: tuple(fields[name]) for name in ("server_cpus", "load_cpus")}
        return cls(**(fields | cpus))
