"""uvicorn's protocol stack as one server on the threadlets loop.

Unlike with `uvicorn.run`, a stop by a signal is a success, a second Ctrl-C drops the connections, and
the application can see that the server is stopping.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from threadlets.cli._errors import UserError
from threadlets.cli._listen import describe

logger = logging.getLogger("threadlets.serve")

STOPPING_KEY = "threadlets.stopping"
"""Key in `scope["state"]` of an asyncio.Event that is set when the server begins to stop.

Endless responses, such as server-sent events, can wait for it and end without being cancelled.
"""


class Server(uvicorn.Server):
    """Serve until SIGINT or SIGTERM, let requests finish, and return normally."""

    def __init__(self, config: uvicorn.Config, title: str) -> None:
        super().__init__(config)
        self._title = title
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan.state[STOPPING_KEY] = self._stopping
        try:
            await super().startup(sockets=sockets)
        except SystemExit:
            raise UserError(
                fact=f"'{self._title}' did not start",
                cause="its lifespan start-up failed; the log above has its message",
                remedy="fix the application's start-up",
            ) from None
        for listener in sockets or ():
            logger.info("Serving %s on %s (Ctrl-C stops)", self._title, describe(listener))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.set()
        await super().shutdown(sockets=sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal again at the end, so that a clean stop would end in a death by
        # SIGTERM. The loop's handlers also wake the loop at once.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        if not self.should_exit:
            logger.info("Stopping on %s: requests in flight may finish", number.name)
            self.should_exit = True
        elif number is signal.SIGINT and not self.force_exit:
            logger.warning("Stopping at once: connections are dropped")
            self.force_exit = True
            self._drop_connections()

    def _drop_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()


def logging_config() -> dict[str, Any]:
    """Give our logger the handlers and the format that uvicorn's loggers have."""
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["loggers"]["threadlets"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config
