"""Run one load of requests on one peer, and print the figures as JSON.

``python -m benches.requests PEER LOAD PARAMETERS``, the parameters as a JSON object.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

from benches import peers
from benches.placement import raise_file_limit
from benches.requests import in_gevent, in_scopes, in_trio, on_loops
from benches.requests.account import Cancelling, Parking, SleptTooShort
from benches.servers import settle_heap

if TYPE_CHECKING:
    from collections.abc import Callable

#: Loads for every asyncio loop.
_LOADS: dict[str, Callable[[Any], Any]] = {
    "park-future": on_loops.park_on_futures,
    "park-sleep": on_loops.park_on_sleeps,
    "cancel-tasks-sleep": on_loops.cancel_sleeps,
    "cancel-tasks-receive": on_loops.cancel_receives,
    "cancel-scope-sleep": on_loops.cancel_group_of_sleeps,
    "cancel-scope-receive": on_loops.cancel_group_of_receives,
}
#: Loads that a peer runs in its own way.
_OWN_LOADS: dict[str, dict[str, Callable[[Any], Any]]] = {
    peers.SUBJECT: {
        "park-native": in_scopes.park_on_waits,
        "cancel-scope-sleep": in_scopes.cancel_sleeps,
        "cancel-scope-receive": in_scopes.cancel_receives,
        "cancel-scope-native": in_scopes.cancel_waits,
    },
    "trio": {
        "park-future": in_trio.park_on_futures,
        "park-sleep": in_trio.park_on_sleeps,
        "cancel-scope-sleep": in_trio.cancel_sleeps,
        "cancel-scope-receive": in_trio.cancel_receives,
    },
    "gevent": {
        "park-future": in_gevent.park_on_futures,
        "park-sleep": in_gevent.park_on_sleeps,
        "cancel-tasks-sleep": in_gevent.cancel_sleeps,
        "cancel-tasks-receive": in_gevent.cancel_receives,
    },
}


def main(peer: str, load: str, parameters_json: str) -> None:
    """Run the load on what the peer offers for it."""
    parameters = json.loads(parameters_json)
    n = parameters["n"]
    parks = load.startswith("park-")
    measurement = Parking(n, parameters["lead_s"]) if parks else Cancelling(n)
    raise_file_limit()
    settle_heap()
    # Off, because how often the collector visits a million objects depends on its thresholds only.
    gc.disable()
    try:
        print(json.dumps(_run(peer, load, measurement)))
    except* SleptTooShort as errors:
        print(json.dumps({"late_s": _late_s(errors)}))


def _run(peer: str, load: str, measurement: Parking | Cancelling) -> Any:
    if peer not in peers.PEERS:
        run = _OWN_LOADS[peer][load]
        if peer == "trio":
            return importlib.import_module("trio").run(run, measurement)
        return run(measurement)
    run = _OWN_LOADS.get(peer, {}).get(load) or _LOADS[load]
    return peers.run(peer, run(measurement))


def _late_s(errors: BaseExceptionGroup[SleptTooShort]) -> float:
    """Return the error's argument; a nursery or a scope may have wrapped the error in groups."""
    [error] = errors.exceptions
    late_s: float = _late_s(error) if isinstance(error, BaseExceptionGroup) else error.args[0]
    return late_s


if __name__ == "__main__":
    main(*sys.argv[1:])
