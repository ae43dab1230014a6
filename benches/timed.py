"""Time one body of the transition scenario in this process, and print its figures as JSON.

``python -m benches.timed PEER BODY SECONDS``
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from benches import peers
from benches.scenarios.transition import BODIES
from benches.servers import settle_heap
from benches.switches import SWITCHES

if TYPE_CHECKING:
    from benches.scenario import Figures


def main(peer: str, body: str, seconds: str) -> None:
    """Run the body on a fresh loop of the peer, or the peer's own version of it."""
    settle_heap()
    if peer in SWITCHES:
        figures = SWITCHES[peer](float(seconds))
    else:
        figures = peers.run(peer, _run(body, float(seconds)))
    print(json.dumps(figures))


async def _run(body: str, seconds: float) -> Figures:
    return await BODIES[body](seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
