"""Tracing a function: the table that it becomes, and what stays of the function."""

from __future__ import annotations

import inspect
import os

from threadlets._syslets.program import syslet
from threadlets.atoms import Flow, add, buffer, counter, nop, openat, read, statx


def test_a_function_is_called_once_with_symbols() -> None:
    """Python around the atoms runs while the program is built, so its loops are unrolled."""
    calls = []

    @syslet
    def warm(fd):
        calls.append(fd)
        chunk = buffer(8)
        for _ in range(3):
            yield read(fd, chunk)

    assert 1 == len(calls)
    assert ["read"] * 3 == [row.op for row in warm.table.rows()]


def test_the_function_stays_reachable() -> None:
    """Name, docstring and signature are the function's."""

    @syslet
    def status(path, mask=1):
        """Ask."""
        return (yield statx(path, mask=mask))

    assert "status" == status.__name__
    assert "Ask." == status.__doc__
    assert ["path", "mask"] == list(inspect.signature(status).parameters)
    assert inspect.isgeneratorfunction(status.__wrapped__)


def test_modifiers_return_other_atoms() -> None:
    """An atom never changes, so it can be kept and varied."""
    atom = nop()
    varied = statx("/").unchecked().asynchronous().no_complete()
    assert Flow(0) == atom.flags
    assert Flow.ASYNC | Flow.NO_COMPLETE == varied.flags
    assert Flow.SYNC | Flow.NO_COMPLETE == varied.synchronous().flags
    assert Flow.STOP_ON_NEGATIVE == statx("/").flags


def test_flags_arrive_in_the_table() -> None:
    """The table has the flags of the atoms, and close-on-exec, which is always added."""

    @syslet
    def quiet(path):
        yield openat(path, os.O_RDONLY).synchronous().no_complete()

    (row,) = quiet.table.rows()
    assert Flow.SYNC | Flow.NO_COMPLETE | Flow.STOP_ON_NEGATIVE == row.flags
    assert os.O_CLOEXEC == quiet.table.slots[row.operands[2]]


def test_values_that_are_not_used_have_no_slot() -> None:
    """Only values that are read have a result slot."""

    @syslet
    def two(fd):
        chunk = buffer(4)
        yield read(fd, chunk)
        n = yield read(fd, chunk)
        return n

    first, second = two.table.rows()
    assert -1 == first.result
    assert ("int", second.result) == two.table.outcomes[second.outcome]


def test_equal_constants_share_a_slot() -> None:
    """Equal constants share a slot, to which no atom writes."""

    @syslet
    def count(fd):
        n = counter(7)
        yield add(n, 7)
        yield read(fd, buffer(7))
        return n

    assert [7, 7, 1, 0] == count.table.slots


def test_memory_made_outside_is_every_programs_own() -> None:
    """A buffer is a declaration: two programs that name it do not share bytes."""
    chunk = buffer(4)

    def reading(fd):
        yield read(fd, chunk)
        return chunk

    first, second = syslet(reading), syslet(reading)
    assert first.table.objects == second.table.objects == [("buffer", 1)]
