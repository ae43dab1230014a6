"""The lifespan of an ASGI application: its start-up and its shutdown."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from threadlets._user_error import UserError

logger = logging.getLogger("threadlets.http")


class Lifespan:
    """An application's start-up and shutdown, by ASGI's lifespan protocol, as uvicorn has it.

    An application that returns before it is asked to shut down has no shutdown. `auto` takes an exception for "has no
    lifespan", `on` for a failure; a message that says so is a failure in both.
    """

    def __init__(self, app: Any, state: dict[str, Any], mode: str) -> None:
        self._app = app
        self._state = state
        self._mode = mode
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the application.

        Raises:
            UserError: the start-up failed.
        """
        if self._mode == "off":
            return
        self._task = asyncio.create_task(self._call())
        if await self._fails("lifespan.startup"):
            raise UserError(
                fact="the application did not start",
                cause="its lifespan start-up failed; the log above has its message",
                remedy="fix the application's start-up, or leave it out with --lifespan off",
            )

    async def stop(self) -> None:
        """Shut the application down.

        Raises:
            UserError: the shutdown failed.
        """
        if self._task is None:
            return
        if await self._fails("lifespan.shutdown"):
            raise UserError(
                fact="the application did not shut down",
                cause="its lifespan shutdown failed; the log above has its message",
                remedy="fix the application's shutdown",
            )

    async def _call(self) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        await self._app(scope, self._to_app.get, self._from_app.put)

    async def _fails(self, event: str) -> bool:
        """Tell the application of an event, and log and return whether that fails."""
        message = await self._ask(event)
        if message is not None:
            if message["type"] != f"{event}.failed":
                return False
            if message.get("message"):
                logger.error("%s", message["message"])
            return True
        assert self._task is not None
        if self._task.cancelled() or (error := self._task.exception()) is None:
            return False
        if self._mode == "auto" and event == "lifespan.startup":
            logger.debug("The application has no lifespan: %r", error)
            self._task = None
            return False
        logger.error("An exception in the application's lifespan:", exc_info=error)
        return self._mode == "on"

    async def _ask(self, event: str) -> dict[str, Any] | None:
        """Return the application's answer; None if it has ended without one."""
        assert self._task is not None
        self._to_app.put_nowait({"type": event})
        answer = asyncio.ensure_future(self._from_app.get())
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done() or not self._from_app.empty():
            return await answer
        answer.cancel()
        return None
