"""A client of websockets that sends frames as they stand, also wrong ones (RFC 6455, 5; RFC 7692)."""

from __future__ import annotations

import base64
import hashlib
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from messages import Address, Closed, Connection, Response

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TAIL = b"\0\0\xff\xff"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    is_final: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\x12\x34\x56\x78",
    length: int | None = None,
    wide: int | None = None,
) -> bytes:
    """Return one frame.

    `reserved` are the three reserved bits, 4 for the one that says "compressed". `length` replaces the true length of
    the payload, and `wide` (2 or 8) asks for that many bytes of length though fewer would do.
    """
    first = is_final << 7 | reserved << 4 | opcode
    n_bytes = len(payload) if length is None else length
    if wide is None:
        wide = 0 if n_bytes < 126 else 2 if n_bytes < 65536 else 8
    short = {0: n_bytes, 2: 126, 8: 127}[wide]
    header = bytes([first, (mask is not None) << 7 | short])
    if wide:
        header += struct.pack("!H" if wide == 2 else "!Q", n_bytes)
    if mask is None:
        return header + payload
    return header + mask + masked(payload, mask)


def masked(payload: bytes, mask: bytes) -> bytes:
    """Return the payload with each byte changed by the mask."""
    n_bytes = len(payload)
    repeated = (mask * (n_bytes // 4 + 1))[:n_bytes]
    changed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return changed.to_bytes(n_bytes, "big")


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Return a frame that closes with a code."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


def deflated(data: bytes, compressor: zlib._Compress | None = None, *, bits: int = 15) -> bytes:
    """Return data compressed as the payload of one message."""
    if compressor is None:
        compressor = zlib.compressobj(wbits=-bits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_TAIL)


@dataclass(frozen=True)
class Frame:
    """One frame that came."""

    opcode: int
    payload: bytes
    is_final: bool = True
    reserved: int = 0

    @property
    def code(self) -> int | None:
        """Return the code of a close frame; None if it has none."""
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else None


class WebSocket:
    """A websocket after its handshake; every read has a deadline."""

    def __init__(self, address: Address, target: bytes = b"/", headers: bytes = b"") -> None:
        self.connection = Connection(address)
        self.response = handshake(self.connection, target, headers)
        assert 101 == self.response.status, self.response
        self._inflate = zlib.decompressobj(wbits=-15)

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.socket.close()

    def send(self, *frames: bytes) -> None:
        """Send frames in one go, to a server that may have closed already."""
        self.connection.send_if_open(b"".join(frames))

    def read_frame(self) -> Frame:
        """Return the next frame, or raise `Closed`, `ConnectionResetError` or `TimeoutError`."""
        first, second = self.connection.read_exactly(2)
        assert not second & 0x80, "a server must not mask"
        n_bytes = second & 0x7F
        if n_bytes == 126:
            (n_bytes,) = struct.unpack("!H", self.connection.read_exactly(2))
            assert n_bytes >= 126, "a length that is wider than needed"
        elif n_bytes == 127:
            (n_bytes,) = struct.unpack("!Q", self.connection.read_exactly(8))
            assert n_bytes >= 65536, "a length that is wider than needed"
        payload = self.connection.read_exactly(n_bytes)
        return Frame(first & 0xF, payload, bool(first & 0x80), first >> 4 & 7)

    def read_message(self) -> Frame:
        """Return the next message whole and decompressed; control frames are returned as they come."""
        begun = self.read_frame()
        if begun.opcode >= CLOSE:
            return begun
        payload, last = begun.payload, begun
        while not last.is_final:
            last = self.read_frame()
            assert CONTINUATION == last.opcode
            payload += last.payload
        if begun.reserved & 4:
            payload = self._inflate.decompress(payload + _TAIL)
        return Frame(begun.opcode, payload)

    def rest(self) -> list[Frame]:
        """Return all messages until the server ends the connection; it must do so soon after a close frame."""
        frames = []
        try:
            while True:
                frames.append(self.read_message())
                if frames[-1].opcode == CLOSE:
                    self.send(close_frame(1000))
        except (Closed, ConnectionResetError):
            return frames


def handshake(connection: Connection, target: bytes = b"/", headers: bytes = b"") -> Response:
    """Ask for a websocket, check the proof in the answer, and return it."""
    key = base64.b64encode(os.urandom(16))
    connection.send(
        b"GET %s HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n%s\r\n" % (target, key, headers)
    )
    response = connection.read_response()
    if response.status == 101:
        proof = base64.b64encode(hashlib.sha1(key + _MAGIC).digest())
        assert proof == response.header(b"sec-websocket-accept")
        assert b"websocket" == (response.header(b"upgrade") or b"").lower()
        assert b"upgrade" == (response.header(b"connection") or b"").lower()
    return response


def in_pieces(data: bytes, n_bytes: int) -> Iterable[bytes]:
    """Cut data into pieces of that many bytes."""
    return (data[i : i + n_bytes] for i in range(0, len(data), n_bytes))
