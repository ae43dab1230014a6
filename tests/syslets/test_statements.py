"""Property: the table does what the statements say, whatever the nesting.

Random bodies of statements are carried out twice: traced, lowered and run by the reference, and
directly, by plain Python control flow. Both leave the same marks in a file, and end alike.
"""

from __future__ import annotations

import errno
import operator
import tempfile
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from threadlets._syslets.program import syslet
from threadlets.atoms import (
    add,
    break_if,
    buffer,
    counter,
    loop,
    otherwise,
    pread,
    stop_if,
    when,
    write,
)

from .reference import Ending, run

_CONTENT = b"0123456"
_N_VARIABLES = 3
_LOOP_PASSES_MAX = 4
_RELATIONS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_variables = st.integers(0, _N_VARIABLES - 1)
_operands = st.one_of(_variables.map(lambda i: ("variable", i)), st.integers(-2, 3))
_conditions = st.tuples(_variables, st.sampled_from(sorted(_RELATIONS)), _operands)
_simple = st.one_of(
    st.tuples(st.just("mark"), st.integers(65, 90)),
    st.tuples(st.just("add"), _variables, st.integers(-2, 2)),
    st.tuples(st.just("read"), st.booleans(), _variables, _variables),
    st.tuples(st.just("stop_if"), _conditions, st.integers(0, 2)),
    st.tuples(st.just("break_if"), _conditions),
)


def _blocks(children: Any) -> Any:
    body = st.lists(children, min_size=1, max_size=4)
    return st.one_of(
        st.tuples(st.just("loop"), body),
        st.tuples(st.just("when"), _conditions, body, st.none() | body),
    )


_bodies = st.lists(st.recursive(_simple, _blocks, max_leaves=12), min_size=1, max_size=5)


class _Stop(Exception):
    """A directly executed program ends."""


class _Direct:
    """Carries statements out in plain Python."""

    def __init__(self) -> None:
        self.marks = b""
        self._values = [0] * _N_VARIABLES

    def run(self, body: list[Any]) -> tuple[bool, object, int]:
        try:
            self._block(body)
        except _Stop as stop:
            return stop.args  # type: ignore[return-value]
        return True, tuple(self._values), 0

    def _holds(self, condition: Any) -> bool:
        left, relation, right = condition
        other = self._values[right[1]] if isinstance(right, tuple) else right
        return bool(_RELATIONS[relation](self._values[left], other))

    def _block(self, body: list[Any], *, in_loop: bool = False) -> bool:
        """Carry out statements; True if the loop around is to be left."""
        for statement in body:
            match statement:
                case ("mark", mark):
                    self.marks += bytes([mark])
                case ("add", variable, amount):
                    self._values[variable] += amount
                case ("read", is_checked, offset, variable):
                    self._read(is_checked, self._values[offset], variable)
                case ("stop_if", condition, value):
                    if self._holds(condition):
                        raise _Stop(True, value, 0)
                case ("break_if", condition):
                    if in_loop and self._holds(condition):
                        return True
                case ("when", condition, body, other):
                    taken = body if self._holds(condition) else other or []
                    if self._block(taken, in_loop=in_loop):
                        return True
                case ("loop", body):
                    for _ in range(_LOOP_PASSES_MAX):
                        self.marks += b"."
                        if self._block(body, in_loop=True):
                            break
        return False

    def _read(self, is_checked: bool, offset: int, variable: int) -> None:
        value = -errno.EINVAL if offset < 0 else len(_CONTENT[offset : offset + 3])
        if value < 0 and is_checked:
            raise _Stop(False, None, -value)
        self._values[variable] = value


def _traced(body: list[Any]) -> Any:
    def program(data: Any, marks: Any) -> Iterator[Any]:
        variables = [counter() for _ in range(_N_VARIABLES)]
        chunk = buffer(3)

        def holds(condition: Any) -> Any:
            left, relation, right = condition
            other = variables[right[1]] if isinstance(right, tuple) else right
            return _RELATIONS[relation](variables[left], other)

        def block(body: list[Any], *, in_loop: bool = False) -> Iterator[Any]:
            for statement in body:
                match statement:
                    case ("mark", mark):
                        yield write(marks, bytes([mark]))
                    case ("add", variable, amount):
                        yield add(variables[variable], amount)
                    case ("read", is_checked, offset, variable):
                        atom = pread(data, chunk, variables[offset]).into(variables[variable])
                        yield atom if is_checked else atom.unchecked()
                    case ("stop_if", condition, value):
                        stop_if(holds(condition), value)
                    case ("break_if", condition):
                        if in_loop:
                            break_if(holds(condition))
                    case ("when", condition, inner, other):
                        with when(holds(condition)):
                            yield from block(inner, in_loop=in_loop)
                        if other is not None:
                            with otherwise():
                                yield from block(other, in_loop=in_loop)
                    case ("loop", inner):
                        n_passes = counter()
                        yield add(n_passes, n_passes, -1)
                        with loop():
                            yield write(marks, b".")
                            yield from block(inner, in_loop=True)
                            passed = yield add(n_passes, 1)
                            break_if(passed == _LOOP_PASSES_MAX)

        # These make sure that both parameters are used, and that there is an atom.
        yield write(marks, b"<")
        yield pread(data, chunk, 0)
        yield from block(body)
        return tuple(variables)

    return syslet(program)


@given(_bodies)
def test_the_table_does_what_the_statements_say(body: list[Any]) -> None:
    """Branches, loops, breaks, stops and failures leave the same marks, and end alike."""
    direct = _Direct()
    expected = direct.run(body)
    program = _traced(body)
    with tempfile.TemporaryFile() as data, tempfile.TemporaryFile() as marks:
        data.write(_CONTENT)
        data.flush()
        ending: Ending = run(program.table, (data, marks))
        marks.seek(0)
        assert (expected, b"<" + direct.marks) == (ending[:3], marks.read())


@given(_bodies)
def test_nothing_in_the_table_only_passes_on_what_could_be_passed_directly(body: list[Any]) -> None:
    """A nop is there for an ending, or because two branches need the same next atom."""
    rows = _traced(body).table.rows()
    skipped_to = {
        index + 1 for index, row in enumerate(rows) if row.flags & 128 and index + 1 < len(rows)
    }
    for index, row in enumerate(rows):
        if row.op == "nop":
            assert -1 == row.next or index in skipped_to
