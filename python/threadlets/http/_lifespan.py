"""The lifespan of an ASGI application: its start-up and its shutdown."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from threadlets._user_error import UserError

logger = logging.getLogger("threadlets.http")


class Lifespan:
    """An application's start-up and shutdown, by ASGI's lifespan protocol."""

    def __init__(self, app: Any, state: dict[str, Any], mode: str) -> None:
        self._app = app
        self._state = state
        self._mode = mode
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the application; `auto` takes an exception for "does not take part".

        Raises:
            UserError: the start-up failed.
        """
        if self._mode == "off":
            return
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        self._task = asyncio.create_task(self._app(scope, self._to_app.get, self._from_app.put))
        message = await self._ask("lifespan.startup")
        if message is None and self._mode == "auto" and self._task.exception() is not None:
            self._task = None
        elif message is None or message["type"].endswith(".failed"):
            self._log(message)
            raise UserError(
                fact="the application did not start",
                cause="its lifespan start-up failed; the log above has its message",
                remedy="fix the application's start-up",
            )

    async def stop(self) -> None:
        """Shut the application down.

        Raises:
            UserError: the shutdown failed.
        """
        if self._task is None:
            return
        message = await self._ask("lifespan.shutdown")
        if message is not None and message["type"].endswith(".failed"):
            self._log(message)
            raise UserError(
                fact="the application did not shut down",
                cause="its lifespan shutdown failed; the log above has its message",
                remedy="fix the application's shutdown",
            )

    def _log(self, message: dict[str, Any] | None) -> None:
        if message is not None and message.get("message"):
            logger.error("%s", message["message"])

    async def _ask(self, kind: str) -> dict[str, Any] | None:
        assert self._task is not None
        self._to_app.put_nowait({"type": kind})
        answer = asyncio.ensure_future(self._from_app.get())
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done() or not self._from_app.empty():
            return await answer
        answer.cancel()
        return None
