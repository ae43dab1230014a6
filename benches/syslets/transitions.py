"""Transitions between atoms: a program of atoms that do nothing or count, run in this thread."""

from __future__ import annotations

import importlib
import statistics
from typing import TYPE_CHECKING, Any

from benches.calls.timing import laps, now_ns
from benches.peers import SUBJECT
from benches.scenario import MeasurementFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from benches.scenario import Figures

_N_RUNS = 100


def transitions(peer: str, seconds: float, parameters: Mapping[str, Any]) -> Figures:
    """Time runs of a long program and of one with two atoms; the difference is due to the atoms.

    :raises MeasurementFailed: the program did not count every second atom.
    """
    make = _syslet if peer == SUBJECT else _generator
    n_atoms = parameters["n_atoms"]
    run_long, run_short = make(n_atoms), make(2)
    if (counted := run_long()) != n_atoms // 2:
        raise MeasurementFailed(f"{n_atoms // 2} additions came to {counted}.")
    atoms_ns: list[float] = []
    shorts_ns: list[float] = []
    for _ in laps(seconds, n_laps_min=3):
        shorts_ns.append(_time(run_short))
        atoms_ns.append((_time(run_long) - shorts_ns[-1]) / (n_atoms - 2))
    return {"atom_ns": statistics.median(atoms_ns), "run_ns": statistics.median(shorts_ns)}


def _time(run: Callable[[], int]) -> float:
    started_ns = now_ns()
    for _ in range(_N_RUNS):
        run()
    return (now_ns() - started_ns) / _N_RUNS


def _syslet(n_atoms: int) -> Callable[[], int]:
    threadlets: Any = importlib.import_module(SUBJECT)
    atoms: Any = importlib.import_module(f"{SUBJECT}.atoms")

    # Tracing unrolls the loop: the program is a sequence of atoms.
    def count() -> Generator[Any, Any, Any]:
        counter = 0
        for _ in range(n_atoms // 2):
            yield atoms.nop()
            counter = yield atoms.add(counter, 1)
        return counter

    program = threadlets.syslet(count)

    def run() -> int:
        counted: int = program.run().value
        return counted

    return run


def _generator(n_atoms: int) -> Callable[[], int]:
    """Return the same in pure Python: a generator that yields as often, resumed in a loop."""

    def count() -> Generator[Any, Any, Any]:
        counter = 0
        for _ in range(n_atoms // 2):
            yield None
            counter += 1
            yield None
        return counter

    def drive() -> Generator[Any, Any, Any]:
        counted.append((yield from count()))

    counted: list[int] = []

    def run() -> int:
        counted.clear()
        for _ in drive():
            pass
        return counted[0]

    return run
