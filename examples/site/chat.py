"""A chat over websockets: each message goes to all clients, including its sender.

A message that begins with "/echo " goes only to its sender.
"""

from __future__ import annotations

from .counters import Counters
from .http import Receive, Send

_ECHO = "/echo "


class Chat:
    """The websockets that are open."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._everybody: set[Send] = set()

    async def converse(self, receive: Receive, send: Send) -> None:
        """Serve one websocket, from its handshake to its end."""
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
                # It has been closed meanwhile; its own `converse` cleans up after it.
                self._everybody.discard(listener)
