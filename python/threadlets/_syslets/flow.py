"""What a syslet's function uses besides atoms: memory, variables, conditions and loops."""

from __future__ import annotations

from threadlets._syslets import statements
from threadlets._syslets.atom import Atom
from threadlets._syslets.locations import user_frame, user_location
from threadlets._syslets.operands import Number
from threadlets._syslets.symbols import (
    Address,
    Buffer,
    Condition,
    Growing,
    Lease,
    Memory,
    Parameter,
    ReadBytes,
    Span,
    Variable,
    check_number,
    name_symbols,
)
from threadlets._syslets.waiting import add


def buffer(size: Number) -> Buffer:
    """Return scratch memory of `size` bytes, allocated when a run first uses it.

    A slice is a part of it: `chunk[:n]` is its first n bytes. A read that is to give its bytes needs
    no buffer: `data = yield read(fd, size)`.
    """
    return Buffer(check_number(size, "a buffer's size"))


def growing(limit: Number, expected: Number | None = None) -> Growing:
    """Return memory that reads append to, up to `limit` bytes.

    A read asks for all of the `expected` bytes that are still missing, otherwise for as many bytes
    as the memory holds already (4 KiB at least). Data beyond `limit` fails with ENOBUFS.
    """
    what = "the limit of growing memory"
    hint = None if expected is None else check_number(expected, "the size to expect")
    return Growing(check_number(limit, what), hint)


def counter(initial: int = 0) -> Variable:
    """Return a variable that is `initial` when a run begins; change it by `add` or an atom's `into`.

    Raises:
        SysletTypeError: `initial` is a symbol: add it instead.
    """
    value = check_number(initial, "a counter's initial value")
    if not isinstance(value, int):
        raise user_location().type_error(
            f"a counter begins with a constant, not {value!r}: yield add(counter, …)"
        )
    return Variable(value)


def assign(variable: Variable, value: Number) -> Atom:
    """Return an atom that sets a variable each time it runs; `initial` is set only once per run."""
    return add(value, 0).into(variable)


def parameter(name: str, default: object = ...) -> Parameter:
    """Return a parameter of a program that `Syslet.from_atoms` makes; its uses decide its type."""
    return Parameter(name, default)


def address() -> Address:
    """Return a socket address for accept or recvmsg to fill in."""
    return Address()


def lease(memory: Memory | Span) -> Lease:
    """Return memory for a syslet to return without a copy; it then belongs to the caller.

    Raises:
        SysletTypeError: `memory` is neither memory nor a slice of it.
    """
    if isinstance(memory, Memory):
        return Lease(Span(memory, None, None))
    if isinstance(memory, Span):
        return Lease(memory)
    raise user_location().type_error(
        f"only a buffer or a part of one can be leased, not {memory!r}"
    )


def stop_if(condition: Condition | ReadBytes, value: object = None) -> None:
    """End the program with `value` if the condition holds; the result is `ok`."""
    statements.require_trace("stop_if").record(
        statements.StopIf(_condition(condition), value, user_location())
    )


def break_if(condition: Condition | ReadBytes) -> None:
    """Leave the innermost loop if the condition holds.

    Raises:
        SysletError: there is no enclosing loop.
    """
    recorder = statements.require_trace("break_if")
    innermost = recorder.innermost_loop()
    if innermost is None:
        raise user_location().error("break_if has no enclosing loop to leave")
    recorder.record(statements.BreakIf(_condition(condition), innermost, user_location()))


class loop:  # noqa: N801 - a statement
    """`with loop(): …` repeats the body until `break_if` leaves it, or the program ends.

    Tracing executes the body once; a run repeats it.
    """

    def __enter__(self) -> None:
        recorder = statements.require_trace("loop")
        self._loop = statements.Loop(user_location())
        recorder.record(self._loop)
        recorder.open(self._loop.body, self._loop)

    def __exit__(self, *_exception: object) -> None:
        statements.require_trace("loop").close(self._loop)


class when:  # noqa: N801 - a statement
    """`with when(condition): …` executes the body if the condition holds.

    Bytes in place of a condition hold if they are not empty, here and in stop_if and break_if.
    """

    def __init__(self, condition: Condition | ReadBytes) -> None:
        self._condition = _condition(condition)

    def __enter__(self) -> None:
        recorder = statements.require_trace("when")
        statement = statements.When(self._condition, user_location())
        recorder.record(statement)
        recorder.open(statement.body)

    def __exit__(self, *_exception: object) -> None:
        statements.require_trace("when").close()


class otherwise:  # noqa: N801 - a statement
    """`with otherwise(): …` executes the body if the condition of the `when` before does not hold.

    Raises:
        SysletError: it does not follow the body of a `when` directly.
    """

    def __enter__(self) -> None:
        recorder = statements.require_trace("otherwise")
        statement = recorder.last()
        if not isinstance(statement, statements.When) or statement.otherwise is not None:
            raise user_location().error("otherwise belongs directly after the body of a when")
        statement.otherwise = []
        recorder.open(statement.otherwise)

    def __exit__(self, *_exception: object) -> None:
        statements.require_trace("otherwise").close()


def _condition(condition: object) -> Condition:
    if isinstance(condition, ReadBytes):
        condition = condition != b""
    if isinstance(condition, Condition):
        name_symbols(user_frame())
        return condition
    raise user_location().type_error(
        f"{condition!r} is no condition: compare integer symbols, as in n == 0, or bytes, as in data == b''"
    )
