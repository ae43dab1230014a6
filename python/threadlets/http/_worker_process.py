"""One worker as its supervisor sees it: a process that becomes ready, drains and ends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

from threadlets.http._launch import Launch
from threadlets.http._team import REPLACED_SIGNAL, Team
from threadlets.http._worker import Orders


class WorkerProcess:
    """A worker that was started; `ready_fd` is readable when it is ready, or has ended."""

    def __init__(
        self,
        launch: Launch,
        listeners: list[socket.socket],
        team: Team,
        life_fd: int,
        *,
        own_group: bool,
    ) -> None:
        self.team = team
        self.ready_fd, ready_fd = os.pipe()
        orders = Orders(
            launch=launch.to_json(),
            listener_fds=[it.fileno() for it in listeners],
            n_workers=team.n_workers,
            counts_fd=team.counts.fileno(),
            slot=team.slot,
            metrics_fds=[it.fileno() for it in team.metrics_listeners],
            ready_fd=ready_fd,
            life_fd=life_fd,
        )
        fds = (*orders.listener_fds, *orders.metrics_fds, orders.counts_fd, ready_fd, life_fd)
        # Not among the arguments, which everybody may read: a password may be part of it.
        orders_fd = os.memfd_create("threadlets-worker")
        try:
            os.write(orders_fd, json.dumps(dataclasses.asdict(orders)).encode())
            os.lseek(orders_fd, 0, os.SEEK_SET)
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-m", "threadlets.http._worker", str(orders_fd)],
                pass_fds=(*fds, orders_fd),
                process_group=0 if own_group else None,
            )
        except OSError:
            os.close(self.ready_fd)
            raise
        finally:
            os.close(orders_fd)
            os.close(ready_fd)
        self.started_s = time.monotonic()
        self.is_ready = False
        #: When it is killed, if it was told to end.
        self.killed_at_s: float | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    def take_ready(self) -> bool:
        """Read what the worker has said; return whether it is ready, after which nothing more comes."""
        self.is_ready = os.read(self.ready_fd, 1) != b""
        self.close()
        return self.is_ready

    def terminate(self, patience_s: float, *, is_replaced: bool = False) -> None:
        """Tell it to drain and end; after this time it is killed. To be told again changes nothing.

        With `is_replaced` it is told that another worker takes its place.
        """
        if self.killed_at_s is None:
            self.killed_at_s = time.monotonic() + patience_s
            self._process.send_signal(REPLACED_SIGNAL if is_replaced else signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def poll(self) -> int | None:
        """Return the exit status if it has ended: below 0, the signal that ended it."""
        return self._process.poll()

    def close(self) -> None:
        """Close the pipe, if it is open."""
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1


def describe_end(status: int) -> str:
    """Return how a process ended, as a part of a sentence."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
