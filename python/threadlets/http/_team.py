"""What a worker shares with the other workers of its supervisor. A server that runs alone has no team."""

from __future__ import annotations

import dataclasses
import signal
import socket
from collections.abc import Sequence

from threadlets import _core

#: Tells a worker to drain because another one takes its place; SIGTERM, because nobody does.
REPLACED_SIGNAL = signal.SIGHUP


@dataclasses.dataclass(frozen=True, kw_only=True)
class Team:
    """The workers of a supervisor, as one of them sees them."""

    n_workers: int
    #: The counters of all of them, and the slot in which this one counts.
    counts: _core.HttpCounts
    slot: int
    #: Listening sockets of the metrics, which all of them accept from: each has the counters of all.
    metrics_listeners: Sequence[socket.socket] = ()
