"""A chat over websockets: what one says, all hear, the speaker included.

A message that begins with "/echo " comes back to the speaker alone.
"""

from __future__ import annotations

from .counters import Counters
from .http import Receive, Send

_ECHO = "/echo "


class Chat:
    """The open conversations."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._everybody: set[Send] = set()

    async def converse(self, receive: Receive, send: Send) -> None:
        """Carry one websocket from its handshake to its end."""
        await receive()
        await send({"type": "websocket.accept"})
        self._everybody.add(send)
        self._counters.n_chatters += 1
        try:
            while (message := await receive())["type"] == "websocket.receive":
                await self._answer(message.get("text") or "", send)
        finally:
            self._everybody.discard(send)
            self._counters.n_chatters -= 1

    async def _answer(self, text: str, send: Send) -> None:
        self._counters.n_messages += 1
        if text.startswith(_ECHO):
            await send({"type": "websocket.send", "text": text.removeprefix(_ECHO)})
            return
        for listener in list(self._everybody):
            try:
                await listener({"type": "websocket.send", "text": text})
            except (OSError, RuntimeError):
                # It closed between two messages; its own conversation cleans up after it.
                self._everybody.discard(listener)
