"""Checks of operands, by kind: a wrong operand is refused at the line that makes the atom."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

from threadlets._syslets.atom import Atom, Size
from threadlets._syslets.locations import user_location
from threadlets._syslets.operations import OPERATIONS, Flow, Kind
from threadlets._syslets.symbols import (
    Address,
    Buffer,
    Descriptor,
    Growing,
    Integer,
    Memory,
    Parameter,
    ReadBytes,
    Span,
    Variable,
    check_number,
)

READ_MAX_BYTES = 0x7FFF_F000
"""The most bytes that the kernel moves in one call."""

AT_FDCWD = -100
"""As `dir_fd`: relative paths begin at the working directory."""

Number: TypeAlias = int | Integer
Fd: TypeAlias = int | Integer
Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes] | Parameter
Source: TypeAlias = bytes | bytearray | memoryview | Memory | Span
Target: TypeAlias = bytearray | memoryview | Memory | Span
SizeOrTarget: TypeAlias = int | Integer | Target
"""How many bytes to read at most, or memory to read into."""
SocketAddress: TypeAlias = tuple[Any, ...] | str | bytes | Address | Parameter


def make_atom(name: str, *operands: object) -> Atom:
    """Return the atom of an operation, with the operands in the table's order.

    Raises:
        SysletTypeError: an operand is of the wrong kind.
        SysletError: an operand is of the right kind, but its value is not allowed.
    """
    operation = OPERATIONS[name]
    given = [(column, kind) for column, kind in operation.operands if kind is not Kind.FIELDS]
    checked = tuple(
        _CHECKS[kind](value, f"{column} of {name}")
        for (column, kind), value in zip(given, operands, strict=True)
    )
    flags = Flow.STOP_ON_NEGATIVE if operation.is_io else Flow(0)
    return Atom(operation, checked, user_location(), flags)


def check_constant(value: object, what: str) -> int:
    """Return an integer that must be known when the program is built: flags to which a bit is added.

    Raises:
        SysletTypeError: it is no integer, or it is a symbol.
    """
    checked = check_number(value, what)
    if isinstance(checked, Integer):
        raise user_location().type_error(
            f"{what} is {checked!r}, but must be a constant: close-on-exec is added to it"
        )
    return checked


def _optional_number(value: object, what: str) -> Number | None:
    if value is None or (isinstance(value, int) and value == -1):
        return None
    return check_number(value, what)


def _descriptor(value: object, what: str) -> Fd:
    if isinstance(value, Descriptor | Parameter | Variable):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and (value >= 0 or value == AT_FDCWD):
        return value
    raise user_location().type_error(
        f"{what} is {value!r}, which is no descriptor: take what openat, socket or accept gave, "
        "a parameter, or an integer"
    )


def _nanoseconds(value: object, what: str) -> Number:
    return value if isinstance(value, Parameter) else check_number(value, what)


def _path(value: object, what: str) -> bytes | Parameter:
    if isinstance(value, Parameter):
        return value
    if not isinstance(value, str | bytes | os.PathLike):
        raise user_location().type_error(
            f"{what} is {value!r}, which is no path: take str, bytes, a path object or a parameter"
        )
    path = os.fsencode(value)
    if b"\0" in path:
        raise user_location().error(f"{what} is {value!r}, and no path has a zero byte in it")
    return path


def _is_number(value: object) -> bool:
    """Return whether a value stands for a number where memory could stand, too."""
    if isinstance(value, Parameter):
        return value.is_int
    return isinstance(value, int | Integer)


def _source(value: object, what: str) -> Span | bytes:
    if isinstance(value, Span):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if _is_number(value):
        raise user_location().type_error(
            f"{what} is {value!r}, a number, which has no bytes: take what was read, as in "
            "`data = yield read(fd, 4096)`, a buffer, bytes or a parameter"
        )
    if isinstance(value, Memory):
        return Span(value, None, None)
    raise user_location().type_error(
        f"{what} is {value!r}, which is no memory: take what was read, a buffer, a part of one, "
        "bytes or a parameter"
    )


def _target(value: object, what: str) -> Span | Size:
    if isinstance(value, bool | Descriptor) or not _is_number(value):
        return _memory_to_fill(value, what)
    size = check_number(value, what)
    if isinstance(size, int) and size < 0:
        raise user_location().error(
            f"{what} is {size}, and no read has a negative size: take the number of bytes to read "
            "at most; to read up to the end of a file, read into growing(limit) in a loop"
        )
    if isinstance(size, int) and size > READ_MAX_BYTES:
        raise user_location().error(
            f"{what} is {size}, but one read gives {READ_MAX_BYTES} bytes at most: take a smaller "
            "size, and read in a loop"
        )
    return Size(size)


def _memory_to_fill(value: object, what: str) -> Span:
    if isinstance(value, bytes | bytearray | memoryview):
        raise user_location().type_error(
            f"{what} is a constant, which nothing can be read into: take the number of bytes to "
            "read at most, buffer(size), growing(limit) or a parameter"
        )
    if _is_number(value) and not isinstance(value, bool | Descriptor):
        raise user_location().type_error(
            f"{what} is {value!r}, and sizes are for read, pread, recv and getdents, which read "
            "into one piece of memory: take buffer(size)"
        )
    if not isinstance(value, Memory | Span):
        raise user_location().type_error(
            f"{what} is {value!r}, which is neither a size nor memory: take the number of bytes "
            "to read at most (an int), buffer(size), growing(limit) or a parameter"
        )
    span = Span(value, None, None) if isinstance(value, Memory) else value
    if isinstance(span.memory, ReadBytes):
        raise user_location().type_error(
            f"{what} is {span.memory!r}, and what was read never changes: take the number of bytes "
            "to read at most, or buffer(size)"
        )
    is_part = span.start is not None or span.length is not None
    if isinstance(span.memory, Growing) and is_part:
        raise user_location().error(
            f"{what} is a part of growing memory, to which reads append: take all of it"
        )
    return span


def _several(
    check: Callable[[object, str], Span | bytes],
) -> Callable[[object, str], tuple[Span | bytes, ...]]:
    def checked(value: object, what: str) -> tuple[Span | bytes, ...]:
        parts = value if isinstance(value, list | tuple) else (value,)
        if not parts:
            raise user_location().error(f"{what} is empty: take at least one buffer")
        return tuple(check(part, what) for part in parts)

    return checked


def _whole(value: object, what: str, kinds: type[Any] | Any) -> object:
    if value is None or isinstance(value, kinds):
        return value
    raise user_location().type_error(f"{what} is {value!r}: take all of a buffer, or None")


def _control_source(value: object, what: str) -> object:
    return _whole(value, what, bytes | Buffer | Parameter)


def _control_target(value: object, what: str) -> object:
    return _whole(value, what, Buffer | Parameter)


def _address(value: object, what: str) -> object:
    if isinstance(value, tuple | str | bytes | Address | Parameter):
        return value
    raise user_location().type_error(
        f"{what} is {value!r}, which is no socket address: take what socket.connect takes, or a "
        "parameter"
    )


def _optional_address(value: object, what: str) -> object:
    return None if value is None else _address(value, what)


def _peer(value: object, what: str) -> object:
    if value is None or isinstance(value, Address):
        return value
    raise user_location().type_error(
        f"{what} is {value!r}: take address(), which is filled in, or None"
    )


_CHECKS: dict[Kind, Callable[[object, str], object]] = {
    Kind.NUMBER: check_number,
    Kind.OPTIONAL_NUMBER: _optional_number,
    Kind.DESCRIPTOR: _descriptor,
    Kind.NANOSECONDS: _nanoseconds,
    Kind.PATH: _path,
    Kind.SOURCE: _source,
    Kind.TARGET: _target,
    Kind.SOURCES: _several(_source),
    Kind.TARGETS: _several(_memory_to_fill),
    Kind.CONTROL_SOURCE: _control_source,
    Kind.CONTROL_TARGET: _control_target,
    Kind.ADDRESS: _address,
    Kind.OPTIONAL_ADDRESS: _optional_address,
    Kind.PEER: _peer,
}
