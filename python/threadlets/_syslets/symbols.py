"""Symbols: they stand for values while a syslet is traced, before anything has run.

Arithmetic on integer symbols records `add` atoms; comparing them makes conditions.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from threadlets._syslets import statements
from threadlets._syslets.atom import Assignable, Atom
from threadlets._syslets.locations import user_frame, user_location
from threadlets._syslets.operations import OPERATIONS, Flow

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class Symbol:
    """Stands for a value that exists only in a run; belongs to the trace in which it was made."""

    description = "a symbol"

    def __init__(self) -> None:
        self.location = user_location()
        self.name: str | None = None
        self.trace = statements.current_trace()

    def __bool__(self) -> NoReturn:
        raise user_location().type_error(
            f"{self} has no truth value yet: the program is only being traced. Write "
            "`with when(n != 0): …`, or stop_if or break_if"
        )

    def __repr__(self) -> str:
        name_symbols(user_frame())
        return self.description if self.name is None else f"{self.name} ({self.description})"


class Integer(Symbol):
    """An integer of 64 bits, whose arithmetic wraps around."""

    description = "an integer"

    def __add__(self, other: Integer | int) -> Integer:
        return record_sum(self, other)

    __radd__ = __add__

    def __sub__(self, other: Integer | int) -> Integer:
        return record_sum(self, other, -1)

    def __rsub__(self, other: int) -> Integer:
        return record_sum(other, self, -1)

    def __mul__(self, other: Integer | int) -> Integer:
        return record_sum(0, self, other)

    __rmul__ = __mul__

    def __neg__(self) -> Integer:
        return record_sum(0, self, -1)

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        return Condition(self, "==", other)

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        return Condition(self, "!=", other)

    def __lt__(self, other: Integer | int) -> Condition:
        return Condition(self, "<", other)

    def __le__(self, other: Integer | int) -> Condition:
        return Condition(self, "<=", other)

    def __gt__(self, other: Integer | int) -> Condition:
        return Condition(self, ">", other)

    def __ge__(self, other: Integer | int) -> Condition:
        return Condition(self, ">=", other)

    __hash__ = Symbol.__hash__

    def __index__(self) -> NoReturn:
        raise user_location().type_error(
            f"{self} has no value yet: the program is only being traced"
        )


class Variable(Integer, Assignable):
    """An integer that the program may change; every run begins with `initial`."""

    description = "a variable"

    def __init__(self, initial: int) -> None:
        super().__init__()
        self.initial = initial


class Descriptor(Integer):
    """A file descriptor, or the negative errno of an unchecked atom: it compares, but cannot add."""

    description = "a descriptor"


class Record(Integer):
    """The value of an atom that fills in several fields: an integer, with integers as attributes.

    A syslet that returns the record returns its fields; `value` is the integer alone.
    """

    description = "a record"

    def __init__(self, operation_name: str) -> None:
        super().__init__()
        self.operation_name = operation_name
        self.fields = OPERATIONS[operation_name].fields

    def __getattr__(self, name: str) -> Field:
        if name == "value":
            return Field(self, -1)
        if name.startswith("_") or name not in self.fields:
            raise AttributeError(
                f"{self.operation_name} has no field {name!r}; it has {', '.join(self.fields)}"
            )
        return Field(self, self.fields.index(name))


class Field(Integer):
    """One integer of a record; -1 is the index of the record's own value."""

    description = "a field"

    def __init__(self, record: Record, index: int) -> None:
        super().__init__()
        self.record = record
        self.index = index
        self.trace = record.trace


class Memory(Symbol):
    """Bytes that operations read and write; a slice of it is a span."""

    description = "memory"

    def __getitem__(self, part: slice) -> Span:
        if not isinstance(part, slice) or part.step is not None:
            raise user_location().type_error(
                f"{part!r} does not select a part of {self}: take a slice without a step, as in "
                "chunk[:n]"
            )
        start = None if part.start is None else check_number(part.start, "a slice's start")
        stop = None if part.stop is None else check_number(part.stop, "a slice's end")
        if isinstance(start, int) and start == 0:
            start = None
        for end in (start, stop):
            if isinstance(end, int) and end < 0:
                raise user_location().error(
                    f"{end} counts from the end, which is unknown before a run"
                )
        if start is None or stop is None:
            return Span(self, start, stop)
        length = stop - start
        if isinstance(length, int) and length < 0:
            raise user_location().error(f"the slice [{start}:{stop}] ends before it starts")
        return Span(self, start, length)

    __iter__ = None


class Buffer(Memory):
    """Scratch memory of `size` bytes."""

    description = "a buffer"

    def __init__(self, size: Integer | int) -> None:
        super().__init__()
        self.size = size


class ReadBytes(Memory):
    """The bytes that an atom has read: `size` at most. A run returns them as `bytes`.

    `length` is their number, or the negative errno of an unchecked atom that has failed, whose bytes
    are empty. Of their content a program can ask only whether it is empty: `data == b""`.
    """

    description = "bytes that are read"

    def __init__(self, size: Integer | int, *, may_fail: bool) -> None:
        super().__init__()
        self.size = size
        self.length = Length(self)
        self._may_fail = may_fail

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]
        self._check_empty(other)
        return Condition(self.length, "<=" if self._may_fail else "==", 0)

    def __ne__(self, other: object) -> Condition:  # type: ignore[override]
        self._check_empty(other)
        return Condition(self.length, ">" if self._may_fail else "!=", 0)

    __hash__ = Symbol.__hash__

    def __bool__(self) -> NoReturn:
        raise user_location().type_error(
            f"{self} has no truth value yet: the program is only being traced. Compare it with "
            '`b""` in when, stop_if or break_if: `break_if(data == b"")`'
        )

    def __len__(self) -> NoReturn:
        raise user_location().type_error(
            f"{self} has no length yet: the program is only being traced. `data.length` stands for "
            "the number of bytes"
        )

    def _check_empty(self, other: object) -> None:
        if not isinstance(other, bytes) or other:
            number = isinstance(other, int | Integer)
            remedy = "compare `data.length`" if number else "return it, and compare `result.value`"
            raise user_location().type_error(
                f"{self} is compared with {other!r}, but a program knows only whether bytes are "
                f"empty: {remedy}"
            )

    def _refuse_order(self, other: object) -> NoReturn:
        raise user_location().type_error(
            f"{self} is compared with {other!r}, but bytes have no order in a program: compare "
            "their number, `data.length`"
        )

    __lt__ = __le__ = __gt__ = __ge__ = _refuse_order

    def _refuse_sum(self, other: object) -> NoReturn:
        raise user_location().type_error(
            f"{self} is added to {other!r}, but a program does not join bytes: write both with "
            "`writev(fd, [a, b])`, return both, or add `data.length` for their number"
        )

    __add__ = __radd__ = _refuse_sum

    def __getattr__(self, name: str) -> NoReturn:
        if not hasattr(bytes, name):
            raise AttributeError(f"{self!r} has no attribute {name!r}")
        raise AttributeError(
            f"{self!r} has no method {name!r}: their content is not known while the program is "
            f"traced; return them, and call `result.value.{name}`"
        )


class Length(Integer):
    """The number of bytes that an atom has read, or a negative errno."""

    description = "a length"

    def __init__(self, data: ReadBytes) -> None:
        super().__init__()
        self.data = data


class Growing(Memory):
    """Memory that reads append to, up to `limit` bytes; `expected` is its probable size, if known."""

    description = "growing memory"

    def __init__(self, limit: Integer | int, expected: Integer | int | None) -> None:
        super().__init__()
        self.limit = limit
        self.expected = expected


class Parameter(Integer, Memory):
    """An argument of a run: an integer, descriptor, path, memory …; its uses decide which."""

    description = "a parameter"

    def __init__(self, name: str, default: object = ..., *, is_int: bool = False) -> None:
        super().__init__()
        self.name = name
        self.default = default
        self.is_int = is_int or (isinstance(default, int) and not isinstance(default, bool))
        """It was declared an int: where a size or memory can stand, it is a size."""


class Address(Symbol):
    """A socket address that accept or recvmsg fills in."""

    description = "an address"


@dataclass(frozen=True, eq=False)
class Span:
    """A part of memory. A `start` of None is its beginning, a `length` of None goes up to its end."""

    memory: Memory
    start: Integer | int | None
    length: Integer | int | None


@dataclass(frozen=True, eq=False)
class Lease:
    """A span that a run returns without a copy."""

    span: Span


class Condition:
    """A comparison of two integers, for `when`, `stop_if` and `break_if`."""

    def __init__(self, left: Integer | int, relation: str, right: object) -> None:
        self.left = left
        self.relation = relation
        self.location = user_location()
        self.right = check_comparable(right)

    def __bool__(self) -> NoReturn:
        raise user_location().type_error(
            "a comparison of symbols has no truth value yet: the program is only being traced. "
            "Write `with when(n == 0): …` for `if`, break_if or stop_if to end a loop or the "
            "program, and one of them for each part of `and`, `or` and 0 < n < 10"
        )


def check_comparable(value: object) -> Integer | int:
    """Return one side of a comparison.

    Raises:
        SysletTypeError: it is no integer.
    """
    return value if isinstance(value, Descriptor) else check_number(value, "what is compared")


def check_number(value: object, what: str) -> Integer | int:
    """Return `value` if it can stand where a number is needed.

    Raises:
        SysletTypeError: it is no integer; a descriptor is none.
        SysletError: it does not fit into 64 bits.
    """
    if isinstance(value, Integer) and not isinstance(value, Descriptor):
        return value
    if isinstance(value, ReadBytes):
        raise user_location().type_error(
            f"{what} is {value!r}, which is no integer: `length` is their number, as in "
            "`data.length`"
        )
    if isinstance(value, bool) or not isinstance(value, int):
        raise user_location().type_error(f"{what} is {value!r}, which is no integer")
    if not INT64_MIN <= value <= INT64_MAX:
        raise user_location().error(f"{what} is {value}, which does not fit into 64 bits")
    return int(value)


def record_sum(base: Integer | int, amount: Integer | int, factor: Integer | int = 1) -> Integer:
    """Record an atom that computes `base + amount * factor`, and return its value."""
    operands = tuple(
        check_number(value, "what is computed with") for value in (base, amount, factor)
    )
    location = user_location()
    value = Integer()
    recorder = statements.require_trace("arithmetic of symbols")
    recorder.record(
        statements.AtomStatement(
            Atom(OPERATIONS["add"], operands, location, Flow(0)), value, location
        )
    )
    return value


def name_symbols(frame: FrameType) -> None:
    """Name symbols after the function's variables, for error messages and `explain`."""
    for name, value in frame.f_locals.items():
        if isinstance(value, Symbol) and value.name is None:
            value.name = name


def symbol_for(atom: Atom) -> Integer:
    """Return a new symbol for the value of an atom, or the variable that it changes.

    The symbol of bytes is that of their length, whose `data` they are.
    """
    if atom.result is not None:
        return atom.result
    if atom.size is not None:
        may_fail = not atom.flags & Flow.STOP_ON_NEGATIVE
        return ReadBytes(atom.size, may_fail=may_fail).length
    if atom.operation.opens:
        return Descriptor()
    if atom.operation.fields:
        return Record(atom.operation.name)
    if atom.operation.name == "add" and isinstance(atom.operands[0], Variable):
        return atom.operands[0]
    return Integer()
