"""Run one load of calls in this process, and print the reading as JSON.

``python -m benches.calls PEER LOAD SECONDS PARAMETERS``, the parameters as a JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from typing import TYPE_CHECKING, Any

import threadlets

from benches.calls import capacity, computing, executors, latency, ways
from benches.peers import SUBJECT
from benches.servers import settle_heap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from benches.scenario import Reading

#: Loads that make calls in the peer's way.
LOADS: dict[str, Callable[[ways.Call, float, Mapping[str, Any]], Awaitable[Reading]]] = {
    "noop": latency.noop,
    "sleeping": latency.sleeping,
    "next-request": latency.next_request,
    "mixed": latency.mixed,
    "blockers": capacity.blockers,
    "computing": computing.computing,
}


def main(peer: str, load: str, seconds: str, parameters_json: str) -> None:
    """Run the load on what the peer offers for it."""
    parameters = json.loads(parameters_json)
    if "stack_kib" in parameters:
        threading.stack_size(parameters["stack_kib"] * 1024)
    settle_heap()
    print(json.dumps(dataclasses.asdict(_run(peer, load, float(seconds), parameters))))


def _run(peer: str, load: str, seconds: float, parameters: Mapping[str, Any]) -> Reading:
    if load == "executor":
        return executors.executor(peer, seconds, parameters)
    if load == "loop-executor":
        own = {"executor": "threadlets"} if peer == SUBJECT else {}
        return ways.run(peer, executors.loop_executor(seconds, parameters), **own)
    options: dict[str, Any] = {}
    if "preempt_ms" in parameters:
        preempt_ms = parameters["preempt_ms"]
        options["preempt_ms"] = None if preempt_ms == "never" else preempt_ms

    async def on_loop() -> Reading:
        call = ways.caller(peer, parameters.get("n_threads"))
        if "preempt_ms" in parameters and peer == SUBJECT:
            # Call inline: a function on another thread is not preempted.
            call = threadlets.Pool(start="inline").call
        return await LOADS[load](call, seconds, parameters)

    return ways.run(peer, on_loop(), **options)


if __name__ == "__main__":
    main(*sys.argv[1:])
