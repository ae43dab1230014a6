"""Clients that stay connected: listeners to the event stream, and speakers on a websocket."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import struct

from .load_http import Endpoint, Problems, encode_get

_EVENT_END = b"\n\n"
_HEAD_END = b"\r\n\r\n"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class Listener(asyncio.Protocol):
    """Listens to /events; its latencies are the times between two events."""

    def __init__(self, loop: asyncio.AbstractEventLoop, row: Endpoint, problems: Problems) -> None:
        self._loop = loop
        self._row = row
        self._problems = problems
        self._transport: asyncio.Transport | None = None
        self._last_s: float | None = None
        self._tail = b""
        self._is_leaving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def start(self) -> None:
        if self._transport is not None:
            self._transport.write(encode_get("/events"))

    def data_received(self, data: bytes) -> None:
        # An event may end exactly between two reads.
        for _ in range((self._tail + data).count(_EVENT_END)):
            now_s = self._loop.time()
            if self._last_s is not None:
                self._row.latencies_s.append(now_s - self._last_s)
            self._last_s = now_s
        self._tail = b"" if data.endswith(_EVENT_END) else data[-1:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_leaving:
            self._row.n_errors += 1
            self._problems.add(f"event stream lost: {exc or 'closed by the server'}")

    def leave(self) -> None:
        self._is_leaving = True
        if self._last_s is None:
            self._row.n_errors += 1
            self._problems.add("event stream without an event")
        if self._transport is not None:
            self._transport.close()


class Speaker(asyncio.Protocol):
    """Sends a message on /ws at fixed intervals, and waits for its echo."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        row: Endpoint,
        problems: Problems,
        pause_s: float,
        chance: random.Random,
    ) -> None:
        self._chance = chance
        self._loop = loop
        self._row = row
        self._problems = problems
        self._pause_s = pause_s
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._has_begun = False
        self._is_open = False
        self._is_silent = False
        self._is_leaving = False
        self._is_waiting = False
        self._said_s = 0.0
        self._n_said = 0
        self._pausing: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a message, or the handshake, does not have its answer yet."""
        is_shaking_hands = self._has_begun and not self._is_open
        return self._transport is not None and (self._is_waiting or is_shaking_hands)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def start(self) -> None:
        """Begin after a part of the pause, so that speakers do not all send at once."""
        delay_s = self._chance.uniform(0, self._pause_s)
        self._pausing = self._loop.call_later(delay_s, self._shake_hands)

    def stop_asking(self) -> None:
        """Send nothing more; the echo of the last message may still come."""
        self._is_silent = True
        if self._pausing is not None:
            self._pausing.cancel()

    def _shake_hands(self) -> None:
        self._has_begun = True
        key = base64.b64encode(os.urandom(16)).decode()
        handshake = encode_get(
            "/ws",
            "upgrade: websocket",
            "connection: Upgrade",
            "sec-websocket-version: 13",
            f"sec-websocket-key: {key}",
        )
        if self._transport is not None:
            self._transport.write(handshake)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._is_open and not self._read_handshake():
            return
        while (frame := self._next_frame()) is not None:
            self._on_frame(*frame)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
        self._transport = None
        if not self._is_leaving:
            self._fail(f"websocket lost: {exc or 'closed by the server'}")

    def leave(self) -> None:
        self._is_leaving = True
        self.stop_asking()
        if self.is_waiting:
            self._fail("websocket unanswered at the end")
        if self._transport is not None:
            if self._is_open:
                self._transport.write(_masked(_CLOSE, struct.pack("!H", 1000)))
            self._transport.close()

    def _read_handshake(self) -> bool:
        head_end = self._received.find(_HEAD_END)
        if head_end < 0:
            return False
        if self._received[9:12] != b"101":
            self._is_leaving = True
            self._fail("websocket refused")
            assert self._transport is not None, "data arrive on open transports only"
            self._transport.close()
            return False
        del self._received[: head_end + len(_HEAD_END)]
        self._is_open = True
        self._say()
        return True

    def _say(self) -> None:
        if self._transport is None or self._is_silent:
            return
        self._n_said += 1
        self._is_waiting = True
        self._said_s = self._loop.time()
        self._transport.write(_masked(_TEXT, b"/echo %d" % self._n_said))

    def _next_frame(self) -> tuple[int, bytes] | None:
        """Cut one short frame off; the site sends no frame above 125 bytes to a speaker."""
        if len(self._received) < 2:
            return None
        opcode, n_payload = self._received[0] & 0x0F, self._received[1]
        if len(self._received) < 2 + n_payload:
            return None
        payload = bytes(self._received[2 : 2 + n_payload])
        del self._received[: 2 + n_payload]
        return opcode, payload

    def _on_frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING and self._transport is not None:
            self._transport.write(_masked(_PONG, payload))
        elif opcode == _TEXT and self._is_waiting:
            self._is_waiting = False
            if payload == b"%d" % self._n_said:
                self._row.latencies_s.append(self._loop.time() - self._said_s)
            else:
                self._fail("wrong echo")
            if not self._is_silent:
                self._pausing = self._loop.call_later(self._pause_s, self._say)

    def _fail(self, kind: str) -> None:
        self._row.n_errors += 1
        self._problems.add(kind)


def _masked(opcode: int, payload: bytes) -> bytes:
    """Encode a client's frame of at most 125 bytes; the standard requires it to be masked."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[position % 4] for position, byte in enumerate(payload))
    return bytes((0x80 | opcode, 0x80 | len(payload))) + mask + masked
