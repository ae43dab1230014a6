"""What follows frames of a websocket to an application that sends back what it gets (RFC 6455, 5 to 8; RFC 7692)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from websocket_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    deflated,
    frame,
)

# The connection may be closed without a close frame: RFC 6455, 7.1.7.
NO_CODE = None
PROTOCOL_ERROR = frozenset({1002, NO_CODE})
INVALID_DATA = frozenset({1007, NO_CODE})
ECHOED = frozenset({1000})


@dataclass(frozen=True)
class FrameCase:
    """One line: what is sent, the frames that have to come back before the close, and its codes.

    The client closes with 1000 when the replies have come, if 1000 is among the codes.
    """

    name: str
    sent: bytes
    replies: tuple[tuple[int, bytes], ...]
    codes: frozenset[int | None]
    section: str


def _text(text: str) -> bytes:
    return text.encode()


_LONG = b"*" * 65536
_ABOUT_125 = bytes(range(125))
_VALID = _text("κόσμε \U0001f600 �")
_HALVES = frame(TEXT, b"Hel", is_final=False), frame(CONTINUATION, b"lo")

# fmt: off
FRAMES = (
    FrameCase("empty text", frame(TEXT), ((TEXT, b""),), ECHOED, "5.6"),
    FrameCase("text", frame(TEXT, b"Hello"), ((TEXT, b"Hello"),), ECHOED, "5.6"),
    FrameCase("binary", frame(BINARY, b"\0\xff"), ((BINARY, b"\0\xff"),), ECHOED, "5.6"),
    FrameCase("125 bytes", frame(TEXT, b"*" * 125), ((TEXT, b"*" * 125),), ECHOED, "5.2"),
    FrameCase("126 bytes", frame(TEXT, b"*" * 126), ((TEXT, b"*" * 126),), ECHOED, "5.2"),
    FrameCase("65,535 bytes", frame(BINARY, _LONG[1:]), ((BINARY, _LONG[1:]),), ECHOED, "5.2"),
    FrameCase("65,536 bytes", frame(BINARY, _LONG), ((BINARY, _LONG),), ECHOED, "5.2"),
    FrameCase("a mask of zeros", frame(TEXT, b"Hello", mask=bytes(4)), ((TEXT, b"Hello"),), ECHOED, "5.3"),
    FrameCase("no mask", frame(TEXT, b"Hello", mask=None), (), PROTOCOL_ERROR, "5.1"),
    FrameCase("a ping without a mask", frame(PING, b"", mask=None), (), PROTOCOL_ERROR, "5.1"),
    FrameCase("first reserved bit", frame(TEXT, b"Hello", reserved=4), (), PROTOCOL_ERROR, "5.2"),
    FrameCase("second reserved bit", frame(TEXT, b"Hello", reserved=2), (), PROTOCOL_ERROR, "5.2"),
    FrameCase("third reserved bit", frame(TEXT, b"Hello", reserved=1), (), PROTOCOL_ERROR, "5.2"),
    FrameCase("all reserved bits of a ping", frame(PING, b"", reserved=7), (), PROTOCOL_ERROR, "5.2"),
    FrameCase("reserved bit of a close", frame(CLOSE, b"\x03\xe8", reserved=4), (), PROTOCOL_ERROR, "5.2"),
    FrameCase("reserved bit after a good frame", frame(TEXT, b"Hello") + frame(TEXT, b"x", reserved=2), ((TEXT, b"Hello"),), PROTOCOL_ERROR, "5.2"),
    *(FrameCase(f"opcode {code}", frame(code, b"Hello"), (), PROTOCOL_ERROR, "5.2") for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    FrameCase("opcode 3 after a good frame", frame(TEXT, b"Hello") + frame(3), ((TEXT, b"Hello"),), PROTOCOL_ERROR, "5.2"),
    FrameCase("length wider than needed", frame(TEXT, b"Hello", wide=2), ((TEXT, b"Hello"),), ECHOED | PROTOCOL_ERROR, "5.2"),
    FrameCase("length of eight bytes for five", frame(TEXT, b"Hello", wide=8), ((TEXT, b"Hello"),), ECHOED | PROTOCOL_ERROR, "5.2"),
    FrameCase("length with the highest bit", frame(BINARY, b"", length=1 << 63, wide=8), (), PROTOCOL_ERROR | {1009}, "5.2"),
    FrameCase("length beyond all limits", frame(BINARY, b"", length=(1 << 63) - 1, wide=8), (), PROTOCOL_ERROR | {1009}, "10.4"),
)

CONTROL = (
    FrameCase("ping", frame(PING, b"abc"), ((PONG, b"abc"),), ECHOED, "5.5.3"),
    FrameCase("empty ping", frame(PING), ((PONG, b""),), ECHOED, "5.5.3"),
    FrameCase("ping of 125 bytes", frame(PING, _ABOUT_125), ((PONG, _ABOUT_125),), ECHOED, "5.5"),
    FrameCase("ping of 126 bytes", frame(PING, b"x" * 126), (), PROTOCOL_ERROR, "5.5"),
    FrameCase("pong of 126 bytes", frame(PONG, b"x" * 126), (), PROTOCOL_ERROR, "5.5"),
    FrameCase("close of 126 bytes", frame(CLOSE, b"\x03\xe8" + b"x" * 124), (), PROTOCOL_ERROR, "5.5"),
    FrameCase("pong that nobody asked for", frame(PONG, b"abc"), (), ECHOED, "5.5.3"),
    FrameCase("ten pings", b"".join(frame(PING, b"%d" % i) for i in range(10)), tuple((PONG, b"%d" % i) for i in range(10)), ECHOED, "5.5.3"),
    FrameCase("ping in two parts", frame(PING, b"a", is_final=False) + frame(CONTINUATION, b"b"), (), PROTOCOL_ERROR, "5.5"),
    FrameCase("close in two parts", frame(CLOSE, b"\x03", is_final=False) + frame(CONTINUATION, b"\xe8"), (), PROTOCOL_ERROR, "5.5"),
)

PARTS = (
    FrameCase("two parts", b"".join(_HALVES), ((TEXT, b"Hello"),), ECHOED, "5.4"),
    FrameCase("three empty parts", frame(TEXT, is_final=False) + frame(CONTINUATION, is_final=False) + frame(CONTINUATION), ((TEXT, b""),), ECHOED, "5.4"),
    FrameCase("part that is empty between", frame(TEXT, b"Hel", is_final=False) + frame(CONTINUATION, is_final=False) + frame(CONTINUATION, b"lo"), ((TEXT, b"Hello"),), ECHOED, "5.4"),
    FrameCase("ping between the parts", _HALVES[0] + frame(PING, b"p") + _HALVES[1], ((PONG, b"p"), (TEXT, b"Hello")), ECHOED, "5.4"),
    FrameCase("five pings between six parts", b"".join(frame(CONTINUATION if i else TEXT, b"x", is_final=i == 5) + (frame(PING, b"%d" % i) if i < 5 else b"") for i in range(6)), (*((PONG, b"%d" % i) for i in range(5)), (TEXT, b"xxxxxx")), ECHOED, "5.4"),
    FrameCase("pong between the parts", _HALVES[0] + frame(PONG, b"p") + _HALVES[1], ((TEXT, b"Hello"),), ECHOED, "5.4"),
    FrameCase("close between the parts", _HALVES[0] + close_frame(1000) + _HALVES[1], (), ECHOED | PROTOCOL_ERROR, "5.4"),
    FrameCase("continuation of nothing", frame(CONTINUATION, b"x"), (), PROTOCOL_ERROR, "5.4"),
    FrameCase("continuation of nothing, not final", frame(CONTINUATION, b"x", is_final=False), (), PROTOCOL_ERROR, "5.4"),
    FrameCase("continuation after a whole message", frame(TEXT, b"Hello") + frame(CONTINUATION, b"x"), ((TEXT, b"Hello"),), PROTOCOL_ERROR, "5.4"),
    FrameCase("text within a text", _HALVES[0] + frame(TEXT, b"x"), (), PROTOCOL_ERROR, "5.4"),
    FrameCase("binary within a text", _HALVES[0] + frame(BINARY, b"x"), (), PROTOCOL_ERROR, "5.4"),
    FrameCase("reserved bit of a continuation", _HALVES[0] + frame(CONTINUATION, b"lo", reserved=4), (), PROTOCOL_ERROR, "5.2"),
    FrameCase("hundred parts", frame(BINARY, b"x", is_final=False) + frame(CONTINUATION, b"x", is_final=False) * 98 + frame(CONTINUATION, b"x"), ((BINARY, b"x" * 100),), ECHOED, "5.4"),
)

UTF8 = (
    FrameCase("beyond ASCII", frame(TEXT, _VALID), ((TEXT, _VALID),), ECHOED, "8.1"),
    FrameCase("a character in two parts", frame(TEXT, b"\xce", is_final=False) + frame(CONTINUATION, b"\xba"), ((TEXT, b"\xce\xba"),), ECHOED, "8.1"),
    FrameCase("each byte a part", b"".join(frame(CONTINUATION if i else TEXT, _VALID[i:i + 1], is_final=i == len(_VALID) - 1) for i in range(len(_VALID))), ((TEXT, _VALID),), ECHOED, "8.1"),
    FrameCase("the last character", frame(TEXT, b"\xf4\x8f\xbf\xbf"), ((TEXT, b"\xf4\x8f\xbf\xbf"),), ECHOED, "8.1"),
    FrameCase("no character", frame(TEXT, b"\xef\xbf\xbf"), ((TEXT, b"\xef\xbf\xbf"),), ECHOED, "8.1"),
    FrameCase("NUL", frame(TEXT, b"a\0b"), ((TEXT, b"a\0b"),), ECHOED, "8.1"),
    FrameCase("a surrogate", frame(TEXT, b"a\xed\xa0\x80b"), (), INVALID_DATA, "8.1"),
    FrameCase("beyond the last character", frame(TEXT, b"\xf4\x90\x80\x80"), (), INVALID_DATA, "8.1"),
    FrameCase("longer than needed", frame(TEXT, b"\xc0\xaf"), (), INVALID_DATA, "8.1"),
    FrameCase("NUL, longer than needed", frame(TEXT, b"\xc0\x80"), (), INVALID_DATA, "8.1"),
    FrameCase("of five bytes", frame(TEXT, b"\xf8\x88\x80\x80\x80"), (), INVALID_DATA, "8.1"),
    FrameCase("continuation byte alone", frame(TEXT, b"\x80"), (), INVALID_DATA, "8.1"),
    FrameCase("FF", frame(TEXT, b"\xff"), (), INVALID_DATA, "8.1"),
    FrameCase("cut at the end", frame(TEXT, b"abc\xce"), (), INVALID_DATA, "8.1"),
    FrameCase("cut at the end of the parts", frame(TEXT, b"abc\xce", is_final=False) + frame(CONTINUATION), (), INVALID_DATA, "8.1"),
    FrameCase("invalid in the second part", frame(TEXT, b"abc", is_final=False) + frame(CONTINUATION, b"\xed\xa0\x80"), (), INVALID_DATA, "8.1"),
    FrameCase("of binary does not matter", frame(BINARY, b"\xff\xc0"), ((BINARY, b"\xff\xc0"),), ECHOED, "5.6"),
)

# It may say so before the message is whole, and need not: RFC 6455, 8.1.
UTF8_EARLY = (
    FrameCase("invalid in a part that is not the last", frame(TEXT, b"\xed\xa0\x80", is_final=False), (), INVALID_DATA, "8.1"),
    FrameCase("invalid in the second of three parts", frame(TEXT, b"abc", is_final=False) + frame(CONTINUATION, b"\xff", is_final=False), (), INVALID_DATA, "8.1"),
)

CLOSES = (
    FrameCase("without a code", frame(CLOSE), (), frozenset({NO_CODE, 1000, 1005}), "5.5.1"),
    FrameCase("of one byte", frame(CLOSE, b"\x03"), (), PROTOCOL_ERROR, "5.5.1"),
    FrameCase("with a reason", close_frame(1000, _VALID), (), ECHOED, "5.5.1"),
    FrameCase("with a reason of 123 bytes", close_frame(1000, b"x" * 123), (), ECHOED, "5.5"),
    FrameCase("with a reason that is not UTF-8", close_frame(1000, b"\xce\xba\xe1\xff"), (), PROTOCOL_ERROR | INVALID_DATA, "8.1"),
    *(FrameCase(f"with {code}", close_frame(code), (), frozenset({code}), "7.4") for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)),
    *(FrameCase(f"with {code}", close_frame(code), (), PROTOCOL_ERROR, "7.4") for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)),
    FrameCase("and text after it", close_frame(1000) + frame(TEXT, b"late"), (), ECHOED, "5.5.1"),
    FrameCase("and a ping after it", close_frame(1000) + frame(PING, b"late"), (), ECHOED, "5.5.1"),
    FrameCase("twice", close_frame(1000) * 2, (), ECHOED, "5.5.1"),
)

# After permessage-deflate was agreed on.
_STORED = b"\x00\x05\x00\xfa\xff" + b"Hello" + b"\x00"
COMPRESSED = (
    FrameCase("text", frame(TEXT, deflated(b"Hello" * 10), reserved=4), ((TEXT, b"Hello" * 10),), ECHOED, "7692 7.2.2"),
    FrameCase("binary", frame(BINARY, deflated(bytes(1000)), reserved=4), ((BINARY, bytes(1000)),), ECHOED, "7692 7.2.2"),
    FrameCase("empty", frame(TEXT, deflated(b"") or b"\0", reserved=4), ((TEXT, b""),), ECHOED, "7692 7.2.3.6"),
    FrameCase("a single empty block", frame(TEXT, b"\0", reserved=4), ((TEXT, b""),), ECHOED, "7692 7.2.3.6"),
    FrameCase("not compressed", frame(TEXT, b"Hello"), ((TEXT, b"Hello"),), ECHOED, "7692 6.1"),
    FrameCase("stored, not compressed", frame(TEXT, _STORED, reserved=4), ((TEXT, b"Hello"),), ECHOED, "7692 7.2.3.3"),
    FrameCase("in two parts", frame(TEXT, deflated(b"Hello")[:3], reserved=4, is_final=False) + frame(CONTINUATION, deflated(b"Hello")[3:]), ((TEXT, b"Hello"),), ECHOED, "7692 7.2.2"),
    FrameCase("in parts of one byte", b"".join(frame(CONTINUATION if i else TEXT, deflated(b"Hello")[i:i + 1], reserved=0 if i else 4, is_final=i == len(deflated(b"Hello")) - 1) for i in range(len(deflated(b"Hello")))), ((TEXT, b"Hello"),), ECHOED, "7692 7.2.2"),
    FrameCase("bit on the second part", frame(TEXT, deflated(b"Hello")[:3], reserved=4, is_final=False) + frame(CONTINUATION, deflated(b"Hello")[3:], reserved=4), (), PROTOCOL_ERROR, "7692 6.1"),
    FrameCase("bit on a ping", frame(PING, b"", reserved=4), (), PROTOCOL_ERROR, "7692 6.1"),
    FrameCase("other reserved bit", frame(TEXT, b"x", reserved=2), (), PROTOCOL_ERROR, "5.2"),
    FrameCase("garbage", frame(TEXT, b"\xff" * 20, reserved=4), (), PROTOCOL_ERROR | INVALID_DATA | {1003, 1011}, "7692 7.2.2"),
    FrameCase("invalid UTF-8 within", frame(TEXT, deflated(b"\xff\xfe"), reserved=4), (), INVALID_DATA, "8.1"),
)
# fmt: on

TOO_LARGE = frozenset({1009, NO_CODE})


def bomb(n_bytes: int) -> bytes:
    """Return a compressed frame that becomes that many bytes."""
    return frame(BINARY, deflated(bytes(n_bytes)), reserved=4)


def code_of(payload: bytes) -> int:
    """Return the code in the payload of a close frame."""
    return int(struct.unpack("!H", payload[:2])[0])
