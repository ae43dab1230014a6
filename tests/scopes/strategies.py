"""Random programs of scopes: plans for coroutines, and events that happen to them meanwhile.

A plan is drawn by a function `between(low, high)`: Hypothesis's finds small examples, and a
seeded `random.Random`'s draws the same kind of programs in great numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hypothesis import strategies as st

Between = Callable[[int, int], int]

_DEPTH_MAX = 4
_N_COROUTINES_MAX = 14


@dataclass
class Step:
    """One action of a coroutine, and its operands."""

    kind: str
    n: int = 0
    plan: Plan | None = None
    block: list[Step] = field(default_factory=list)
    shield: bool = False
    limit_us: int | None = None
    catches: bool = False


@dataclass
class Plan:
    """The steps of a coroutine, and what it does when it is cancelled."""

    steps: list[Step]
    n_cleanups: int
    n_turns_of_cleanup: int
    when_cancelled: str


@dataclass
class Case:
    """A program and its events, each with the tick in which it happens."""

    root: Plan
    events: list[tuple[int, str, int]]
    seed: int
    error_rate: float


@dataclass
class _Draft:
    between: Between
    n_coroutines: int = 0

    def one_of(self, *options: Any) -> Any:
        return options[self.between(0, len(options) - 1)]

    def plan(self, depth: int, *, opens: bool = False) -> Plan:
        self.n_coroutines += 1
        steps = self.steps(depth)
        if opens:
            steps = [self.scope(depth), *steps[:1]]
        return Plan(
            steps,
            self.between(0, 3),
            self.between(0, 4),
            self.one_of("ends", "ends", "cleans up", "cleans up", "fails", "goes on"),
        )

    def steps(self, depth: int) -> list[Step]:
        return [self.step(depth) for _ in range(self.between(0, 4 if depth < 2 else 3))]

    def step(self, depth: int) -> Step:
        is_deep = depth >= _DEPTH_MAX or self.n_coroutines >= _N_COROUTINES_MAX
        kind = self.between(0, 30)
        if kind <= 3 or (is_deep and kind >= 17):
            return Step("turns", self.between(0, 5))
        if kind <= 5:
            return Step("sleep", self.one_of(0, 50, 300, 1_000_000))
        if kind <= 7:
            return Step("future", self.between(0, 3))
        if kind == 8:
            return Step("fail")
        if kind <= 11:
            return Step("await", self.between(0, 5))
        if kind == 12:
            return Step("cancel scope", self.between(0, 3))
        if kind == 13:
            return Step("cancel request", self.between(0, 5))
        if kind <= 15:
            what = self.one_of("sleep", "future", "sleep", "future", "call", "blocked", "syslet")
            return Step(f"start {what}", self.between(0, 3))
        if kind == 16:
            return Step("drain")
        if kind <= 24:
            return Step("start", plan=self.plan(depth + 1))
        if kind <= 28:
            return self.scope(depth + 1)
        if kind == 29:
            block = self.steps(depth + 1)
            return Step("timeout", block=block, limit_us=self.one_of(0, 100, 1_000_000))
        plan = self.plan(depth + 1)
        return Step("group", plan=plan, block=self.steps(depth + 1))

    def scope(self, depth: int) -> Step:
        return Step(
            "scope",
            block=self.steps(depth),
            shield=self.between(0, 3) == 0,
            limit_us=self.one_of(None, None, None, 0, 200, 1_000_000),
            catches=self.between(0, 2) > 0,
        )

    def event(self) -> tuple[int, str, int]:
        kinds = ("cancel scope", "cancel scope", "cancel twice", "cancel request", "cancel host")
        more = ("cancel again", "settle", "settle", "fail", "late cancel")
        return self.between(0, 12), self.one_of(*kinds, *more), self.between(0, 5)


def draw(between: Between) -> Case:
    """Draw a case."""
    draft = _Draft(between)
    root = draft.plan(0, opens=True)
    events = sorted(draft.event() for _ in range(between(0, 4)))
    return Case(root, events, between(0, 1000), (0.0, 0.0, 0.3)[between(0, 2)])


@st.composite
def cases(drawn: st.DrawFn) -> Case:
    """Draw a case that Hypothesis can shrink."""
    return draw(lambda low, high: drawn(st.integers(low, high)))


def case_of(seed: int) -> Case:
    """Return the case of a seed."""
    return draw(Random(seed).randint)
