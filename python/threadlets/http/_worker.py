"""Serves a launch in this process; with `python -m`, as one of a supervisor's workers.

A worker is a fresh interpreter. Its argument is a descriptor of what it needs to know. It says that it is
ready by a byte on a pipe, and stops when another pipe ends, which is when its supervisor has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Literal

from threadlets import _core
from threadlets._aio.runners import run
from threadlets._user_error import STATUS_INTERRUPTED, UserError, print_error
from threadlets.http._launch import Launch
from threadlets.http._logging import set_up_logging
from threadlets.http._server import serve_in_team
from threadlets.http._target import Target
from threadlets.http._team import Team


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orders:
    """What a worker needs to know: what to serve, and its descriptors."""

    launch: str
    listener_fds: list[int]
    n_workers: int
    #: What the workers share: see `Team`.
    counts_fd: int
    slot: int
    metrics_fds: list[int]
    #: A byte is written to it when the worker is ready.
    ready_fd: int
    #: Ends when the supervisor has gone.
    life_fd: int


def serve_here(
    launch: Launch,
    target: Target,
    listeners: list[socket.socket],
    on_ready: Callable[[list[socket.socket]], object],
    team: Team | None = None,
) -> int:
    """Serve in this process until it is told to stop, and return the exit status.

    A failure of the application's start-up or shutdown is a `UserError`.
    """
    config = dataclasses.replace(launch.config, interface=target.interface)
    # Frameworks that call functions by `run_in_executor`, as Litestar does, have threadlets, too.
    executor: Literal["threads", "threadlets"] = (
        "threadlets" if config.worker_threads == "threadlets" else "threads"
    )
    try:
        run(
            serve_in_team(target.app, config, listeners, on_ready, team),
            debug=launch.debug or None,
            executor=executor,
        )
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    return 0


def main() -> None:
    """Do what the supervisor has ordered, and exit with the status that the command would have."""
    with open(int(sys.argv[1])) as file:
        orders = Orders(**json.load(file))
    launch = Launch.from_json(orders.launch)
    set_up_logging(launch.config.log_level)
    for fd in (*orders.listener_fds, *orders.metrics_fds, orders.ready_fd, orders.life_fd):
        os.set_inheritable(fd, False)
    listeners = [socket.socket(fileno=fd) for fd in orders.listener_fds]
    team = Team(
        n_workers=orders.n_workers,
        counts=_core.HttpCounts(orders.counts_fd),
        slot=orders.slot,
        metrics_listeners=[socket.socket(fileno=fd) for fd in orders.metrics_fds],
    )
    os.close(orders.counts_fd)

    def ready(_listeners: list[socket.socket]) -> None:
        asyncio.get_running_loop().add_reader(orders.life_fd, stop_with_supervisor)
        # Closed at the other end if this worker has been told to end meanwhile.
        with contextlib.suppress(BrokenPipeError):
            os.write(orders.ready_fd, b"r")
        os.close(orders.ready_fd)

    def stop_with_supervisor() -> None:
        asyncio.get_running_loop().remove_reader(orders.life_fd)
        logging.getLogger("threadlets.http").warning("The supervisor has gone")
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        status = serve_here(launch, launch.load(), listeners, ready, team)
    except UserError as error:
        print_error(error)
        status = error.status
    sys.exit(status)


if __name__ == "__main__":
    main()
