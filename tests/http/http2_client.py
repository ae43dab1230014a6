"""A client of HTTP/2 that sends frames as they stand, also wrong ones (RFC 9113); frames are made and read by hyperframe."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hpack import Decoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)
from messages import Address, Closed, Connection

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 0x1, 0x1, 0x4, 0x8, 0x20

Fields = list[tuple[str | bytes, str | bytes]]

GET: Fields = [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "a")]
POST: Fields = [(":method", "POST"), *GET[1:]]
PROBE: Fields = [*GET[:2], (":path", "/probe"), GET[3]]
PROBE_STREAM = 1001


def raw_frame(
    kind: int, flags: int, stream: int, payload: bytes = b"", *, length: int | None = None
) -> bytes:
    """Return a frame of any type, flags, stream and payload; `length` replaces the true one."""
    n_bytes = len(payload) if length is None else length
    return (
        struct.pack("!I", n_bytes)[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload
    )


def block(fields: Iterable[tuple[str | bytes, str | bytes]]) -> bytes:
    """Return fields as a block that says nothing of earlier ones: no name is changed, and none is checked."""
    data = b""
    for name, value in fields:
        data += b"\x00"
        for text in (name, value):
            raw = text.encode("latin-1") if isinstance(text, str) else text
            data += _integer(len(raw)) + raw
    return data


def _integer(number: int) -> bytes:
    if number < 127:
        return bytes([number])
    number -= 127
    data = b"\x7f"
    while number >= 128:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def headers(stream: int, fields: Fields, flags: int = END_STREAM | END_HEADERS) -> bytes:
    """Return a HEADERS frame."""
    return raw_frame(HEADERS, flags, stream, block(fields))


def data(stream: int, payload: bytes, flags: int = END_STREAM) -> bytes:
    """Return a DATA frame."""
    return raw_frame(DATA, flags, stream, payload)


def settings(*pairs: tuple[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return raw_frame(SETTINGS, 0, 0, b"".join(struct.pack("!HI", *pair) for pair in pairs))


def window_update(stream: int, n_bytes: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return raw_frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", n_bytes))


@dataclass
class StreamEnd:
    """What became of one stream: a response, or the code of its reset."""

    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    is_whole: bool = False
    reset: int | None = None

    @property
    def status(self) -> int | None:
        """Return the status of the final response."""
        final = [int(value) for name, value in self.fields if name == b":status"]
        return next((it for it in reversed(final) if it >= 200), None)


@dataclass
class Http2:
    """A connection of HTTP/2, of which all frames are read by `read_frame`; each read has a deadline."""

    connection: Connection
    streams: dict[int, StreamEnd] = field(default_factory=dict)
    goaway: int | None = None
    is_closed: bool = False
    n_pongs: int = 0
    server_settings: dict[int, int] = field(default_factory=dict)
    n_settings_acks: int = 0
    # Give back what the server has used of its windows, so that bodies go on.
    refills: bool = True
    _decoder: Decoder = field(default_factory=lambda: Decoder(max_header_list_size=1 << 20))

    @classmethod
    def connect(
        cls,
        address: Address,
        *,
        tls: Path | None = None,
        opening: bytes | None = None,
        deadline_s: float = 10.0,
    ) -> Http2:
        """Connect, by TLS with ALPN if there is a folder with a certificate, and send preface and settings."""
        context = client_context(tls) if tls is not None else None
        self = cls(Connection(address, tls=context, deadline_s=deadline_s))
        self.connection.send(PREFACE + settings() if opening is None else opening)
        return self

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.socket.close()

    def send(self, data: bytes) -> bool:
        """Send frames; return whether the server takes them."""
        try:
            self.connection.send(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            return False
        return True

    def stream(self, number: int) -> StreamEnd:
        """Return what is known of a stream."""
        return self.streams.setdefault(number, StreamEnd())

    def read_frame(self) -> Frame | None:
        """Return the next frame and note what it says; None at the end of the connection."""
        try:
            header = self.connection.read_exactly(9)
            frame, n_bytes = Frame.parse_frame_header(memoryview(header))
            frame.parse_body(memoryview(self.connection.read_exactly(n_bytes)))
        except (Closed, ConnectionResetError, ssl.SSLError):
            self.is_closed = True
            return None
        self._note(frame)
        return frame

    def _note(self, frame: Frame) -> None:
        if isinstance(frame, SettingsFrame):
            if "ACK" in frame.flags:
                self.n_settings_acks += 1
            else:
                self.server_settings.update(frame.settings)
                self.send(raw_frame(SETTINGS, ACK, 0))
        elif isinstance(frame, PingFrame):
            if "ACK" in frame.flags:
                self.n_pongs += 1
            else:
                self.send(raw_frame(PING, ACK, 0, frame.opaque_data))
        elif isinstance(frame, GoAwayFrame):
            self.goaway = frame.error_code
        elif isinstance(frame, RstStreamFrame):
            self.stream(frame.stream_id).reset = frame.error_code
        elif isinstance(frame, HeadersFrame):
            self._note_headers(frame)
        elif isinstance(frame, DataFrame):
            stream = self.stream(frame.stream_id)
            stream.body += frame.data
            stream.is_whole |= "END_STREAM" in frame.flags
            if self.refills and frame.flow_controlled_length:
                n_bytes = frame.flow_controlled_length
                self.send(window_update(0, n_bytes) + window_update(frame.stream_id, n_bytes))

    def _note_headers(self, frame: HeadersFrame) -> None:
        whole = frame.data
        last: HeadersFrame | ContinuationFrame = frame
        while "END_HEADERS" not in last.flags:
            following = self.read_frame()
            assert isinstance(following, ContinuationFrame)
            whole += following.data
            last = following
        stream = self.stream(frame.stream_id)
        fields = self._decoder.decode(whole, raw=True)
        if stream.status is None:
            stream.fields += fields
        else:
            stream.trailers += fields
        stream.is_whole |= "END_STREAM" in frame.flags

    def read_until(self, *numbers: int) -> None:
        """Read until these streams have ended, or the connection has."""
        while not all(self._has_ended(number) for number in numbers):
            if self.read_frame() is None:
                return

    def _has_ended(self, number: int) -> bool:
        stream = self.stream(number)
        return stream.is_whole or stream.reset is not None

    def answer(self, fields: Fields, *, number: int = 1, body: bytes | None = None) -> StreamEnd:
        """Send one request, and return what became of it."""
        if body is None:
            self.send(headers(number, fields))
        else:
            self.send(headers(number, fields, END_HEADERS) + data(number, body))
        self.read_until(number)
        return self.stream(number)


def client_context(folder: Path) -> ssl.SSLContext:
    """Return a context that trusts the certificate of the folder and asks for HTTP/2."""
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    context.set_alpn_protocols(["h2"])
    return context
