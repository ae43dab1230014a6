"""systemd's two protocols for services: sockets that it has bound, and notes on how the service is."""

from __future__ import annotations

import os
import socket
import time

from threadlets.http._listen import adopt

_FIRST_FD = 3


def take_sockets(backlog: int) -> list[socket.socket]:
    """Return the sockets that systemd has passed to this process, if it has (sd_listen_fds(3)).

    The variables are taken out of the environment, so that no child of this process believes them.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    n_sockets = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not n_sockets.isdecimal():
        return []
    return [adopt(fd, backlog) for fd in range(_FIRST_FD, _FIRST_FD + int(n_sockets))]


class Notifier:
    """Tells systemd how the service is (sd_notify(3)); without NOTIFY_SOCKET it does nothing."""

    def __init__(self) -> None:
        # Taken out of the environment: a worker's notes would not be meant for the service.
        path = os.environ.pop("NOTIFY_SOCKET", "")
        #: A name that begins with @ is in no folder.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, note: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.sendto(note.encode(), self._address)
        except OSError:
            # systemd is not there any more; there is nobody to tell.
            pass
