"""Run one load of syslets, or of the peers compared with them, and print the figures as JSON.

``python -m benches.syslets PEER LOAD SECONDS PARAMETERS``, the parameters as a JSON object.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from benches import peers
from benches.placement import raise_file_limit
from benches.servers import settle_heap
from benches.syslets.transitions import transitions
from benches.syslets.waiting import RING, receives, timeouts

if TYPE_CHECKING:
    from benches.scenario import Figures

#: Loads that run on the peer's loop.
_WAITING = {"timeouts": timeouts, "receives": receives}


def main(peer: str, load: str, seconds: str, parameters_json: str) -> None:
    """Run the load on what the peer offers for it."""
    parameters = json.loads(parameters_json)
    raise_file_limit()
    settle_heap()
    figures: Figures
    if load == "transitions":
        figures = transitions(peer, float(seconds), parameters)
    else:
        loop = peers.SUBJECT if peer == RING else peer
        figures = peers.run(loop, _WAITING[load](peer, parameters))
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
