"""Properties: random programs do on every executor what they do in the reference.

The tests compare the results of runs, and what the runs leave in their folders.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import threadlets
from hypothesis import given
from hypothesis import strategies as st
from threadlets import CompletionRing, Result, sweep
from threadlets._syslets.locations import user_location
from threadlets._syslets.program import Syslet
from threadlets._syslets.table import DebugInfo
from threadlets.atoms import Flow

from . import reference
from .harness import DEADLINE_S
from .strategies import Case, cases, snapshot

Found = tuple[tuple[bool, object, int, int], dict[str, object]]


@contextmanager
def _folder_of(case: Case) -> Iterator[tuple[Path, int]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.make_folder(folder)
        fd = os.open(folder, os.O_RDONLY)
        try:
            yield folder, fd
        finally:
            os.close(fd)


def _program(case: Case) -> Syslet[...]:
    place = user_location()
    names = [str(index) for index in range(len(case.table.slots))]
    objects = [str(index) for index in range(len(case.table.objects))]
    n_atoms = len(case.table.atoms)
    debug_info = DebugInfo(place, [place] * n_atoms, [place] * n_atoms, names, objects, frozenset())
    return Syslet(case.table, debug_info)


def _plain(value: object) -> object:
    """Return a value as the reference gives it: leases are bytes there, and statuses tuples."""
    if isinstance(value, threadlets.Lease):
        with value as leased:
            return bytes(leased)
    if type(value) is tuple:
        return tuple(_plain(part) for part in value)
    return value


def _found(result: Result, folder: Path) -> Found:
    return (result.ok, _plain(result.value), result.errno, result.atom), snapshot(folder)


def _expected(case: Case) -> Found:
    with _folder_of(case) as (folder, fd):
        return tuple(reference.run(case.table, (fd,))), snapshot(folder)  # type: ignore[return-value]


def _run(program: Syslet[...], fd: int) -> Result:
    return program.run(fd)


def _await(program: Syslet[...], fd: int) -> Result:
    async def main() -> Result:
        async with asyncio.timeout(DEADLINE_S):
            return await program(fd)

    return threadlets.run(main())


def _sweep(program: Syslet[...], fd: int) -> Result:
    (result,) = sweep(program, [fd])
    return result


@given(cases())
def test_programs_run_here_come_to_what_the_reference_says(case: Case) -> None:
    """`run`, which blocks, gives the reference's result and folder."""
    with _folder_of(case) as (folder, fd):
        found = _found(_run(_program(case), fd), folder)
    assert _expected(case) == found


@pytest.mark.parametrize("way", [_await, _sweep], ids=["await", "sweep"])
@given(case=cases())
def test_programs_on_an_engine_come_to_what_the_reference_says(
    engine_kind: str, way: Callable[[Syslet[...], int], Result], case: Case
) -> None:
    """An await, and a sweep of one input, give the reference's result and folder."""
    with _folder_of(case) as (folder, fd):
        found = _found(way(_program(case), fd), folder)
    assert _expected(case) == found


@given(case=cases())
def test_whatever_is_asked_for_at_once_comes_to_the_same(engine_kind: str, case: Case) -> None:
    """An ASYNC program of a ring does the same, but a silent last atom suppresses its entry."""
    with _folder_of(case) as (folder, fd):
        ring = CompletionRing()
        assert ring.submit(_program(case), fd, flags=Flow.ASYNC) is None
        entries = ring.wait(1, DEADLINE_S)
        assert 0 == ring.outstanding
        left = snapshot(folder)
        results = [_found(entry.result, folder)[0] for entry in entries]
    expected, expected_left = _expected(case)
    is_silent = case.table.rows()[expected[3]].flags & Flow.NO_COMPLETE
    assert ([] if is_silent else [expected], expected_left) == (results, left)


@given(case=cases(), n_runs=st.integers(2, 12), depth=st.integers(1, 6))
def test_many_runs_at_once_do_not_disturb_one_another(
    engine_kind: str, case: Case, n_runs: int, depth: int
) -> None:
    """A sweep over many folders finds in each what the reference finds in one."""
    program = _program(case)
    expected = _expected(case)
    folders: list[Any] = [_folder_of(case) for _ in range(n_runs)]
    places = [folder.__enter__() for folder in folders]
    try:
        results = list(sweep(program, [fd for _, fd in places], depth=depth))
        assert [expected] * n_runs == [
            _found(result, path) for result, (path, _) in zip(results, places, strict=True)
        ]
    finally:
        for folder in folders:
            folder.__exit__(None, None, None)
