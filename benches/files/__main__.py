"""Read all files in one peer's way, lap by lap, and print the figures of each lap as JSON.

``python -m benches.files PEER SECONDS PATHS PARAMETERS``, the parameters as a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benches.files import caches
from benches.files.ways import WAYS, sync
from benches.servers import settle_heap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Files read before the laps: enough for a peer's late imports and its first, slow steps.
_N_WARM_UP = 200


def main(peer: str, seconds: str, paths_file: str, parameters_json: str) -> None:
    """Make laps until the seconds are over, at least one."""
    paths = Path(paths_file).read_text().splitlines()
    parameters = json.loads(parameters_json)
    WAYS[peer](paths[:_N_WARM_UP], parameters)
    if not parameters["cold"]:
        sync(paths, parameters)
    settle_heap()
    laps: list[dict[str, float]] = []
    until = time.perf_counter() + float(seconds)
    while not laps or time.perf_counter() < until:
        if parameters["cold"]:
            caches.empty()
        laps.append(_lap(peer, paths, parameters))
    print(json.dumps(laps))


def _lap(peer: str, paths: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, float]:
    cpu_before_s = time.process_time()
    started_s = time.perf_counter()
    n_bytes = WAYS[peer](paths, parameters)
    wall_s = time.perf_counter() - started_s
    return {"wall_s": wall_s, "cpu_s": time.process_time() - cpu_before_s, "n_bytes": n_bytes}


if __name__ == "__main__":
    main(*sys.argv[1:])
