"""The way through a program as a graph: atoms, and where flow goes after each.

Made from the nested statements of a trace, and simplified; knows nothing of the order in which
atoms stand in the table.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from threadlets.syslets.operations import Flow
from threadlets.syslets.places import Place
from threadlets.syslets.symbols import Condition, Integer
from threadlets.syslets.trace import BreakIf, Loop, Statement, Step, StopIf, When


@dataclass(frozen=True, eq=False)
class End:
    """The end of the program, and what a run gives that ends here."""

    value: object
    place: Place

    def is_same(self, other: Target) -> bool:
        """Say whether a run gives the same at both."""
        return isinstance(other, End) and self.value is other.value


@dataclass(frozen=True, eq=False)
class Way:
    """One way to say where flow goes: to `branch` if the atom's value meets `stop`, else to `next`.

    A test has its value from comparing; `swapped` is right - left instead of left - right.
    """

    stop: Flow
    branch: Target
    next: Target
    swapped: bool = False


@dataclass(eq=False)
class Node:
    """An atom. A `step` of the user's, a test of `condition`, or neither: it only passes on.

    Flow goes to `next`; if there are `ways`, any one of them says it better.
    """

    place: Place
    next: Target | None = None
    step: Step | None = None
    condition: Condition | None = None
    ways: list[Way] = field(default_factory=list)
    number: int = field(default_factory=itertools.count().__next__)
    """Nodes are made from last to first."""


Target: TypeAlias = Node | End

# What a difference is when the comparison holds: which stop, and whether it is right - left.
_TESTS = {
    "==": (Flow.STOP_ON_ZERO, False),
    "!=": (Flow.STOP_ON_NONZERO, False),
    "<": (Flow.STOP_ON_NEGATIVE, False),
    "<=": (Flow.STOP_ON_NON_POSITIVE, False),
    ">": (Flow.STOP_ON_NEGATIVE, True),
    ">=": (Flow.STOP_ON_NON_POSITIVE, True),
}
_OPPOSITES = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
# A comparison of a value with zero as a stop of the atom that gave the value.
_STOPS_AT_ZERO = {
    "==": Flow.STOP_ON_ZERO,
    "!=": Flow.STOP_ON_NONZERO,
    "<": Flow.STOP_ON_NEGATIVE,
    "<=": Flow.STOP_ON_NON_POSITIVE,
}
# The same where negative values are failures already.
_STOPS_OF_CHECKED = {
    "==": Flow.STOP_ON_ZERO,
    "<=": Flow.STOP_ON_ZERO,
    "!=": Flow.STOP_ON_NONZERO,
    ">": Flow.STOP_ON_NONZERO,
}


def build(statements: list[Statement], end: End) -> Target:
    """Return where a program begins that does `statements`, then ends.

    Raises:
        SysletError: there is an empty loop.
    """
    entry = _block(statements, end, {})
    for node in nodes_from(entry):
        if node.next is not None:
            node.next = _passed(node.next)
        node.ways = [
            replace(way, branch=_passed(way.branch), next=_passed(way.next)) for way in node.ways
        ]
    return _passed(entry)


def nodes_from(entry: Target) -> list[Node]:
    """Return the nodes that flow can reach from `entry`, in the order of the source."""
    found: set[Node] = set()
    pending = [entry]
    while pending:
        node = pending.pop()
        if isinstance(node, Node) and node not in found:
            found.add(node)
            pending += _targets(node)
    return sorted(found, key=lambda node: -node.number)


def merge_tests(nodes: list[Node]) -> None:
    """Let an atom test its own value where that is what follows, instead of an atom that only tests."""
    for node in nodes:
        test = node.next
        if node.step is not None and isinstance(test, Node) and test.condition is not None:
            ways = _own_ways(node.step, test)
            if ways:
                node.ways = ways


def _block(statements: list[Statement], after: Target, exits: dict[Loop, Target]) -> Target:
    """Return where `statements` begin, after which flow goes to `after`; built from last to first."""
    for statement in reversed(statements):
        after = _statement(statement, after, exits)
    return after


def _statement(statement: Statement, after: Target, exits: dict[Loop, Target]) -> Target:
    match statement:
        case Step():
            return Node(statement.place, after, statement)
        case Loop():
            head = Node(statement.place)
            head.next = _block(statement.body, head, {**exits, statement: after})
            return head
        case When():
            otherwise = _block(statement.otherwise or [], after, exits)
            return _test(statement, _block(statement.body, after, exits), otherwise)
        case BreakIf():
            return _test(statement, exits[statement.loop], after)
        case StopIf():
            return _test(statement, End(statement.value, statement.place), after)


def _test(statement: When | BreakIf | StopIf, holds: Target, fails: Target) -> Target:
    if holds is fails:
        return holds
    node = Node(statement.place, condition=statement.condition)
    relation = statement.condition.relation
    for compared, branch, other in (
        (relation, holds, fails),
        (_OPPOSITES[relation], fails, holds),
    ):
        stop, swapped = _TESTS[compared]
        node.ways.append(Way(stop, branch, other, swapped))
    return node


def _own_ways(step: Step, test: Node) -> list[Way]:
    """Return the ways in which a step can do what a test after it does; none if it cannot."""
    assert test.condition is not None
    relation = _compared_with_zero(test.condition, step.value)
    if relation is None:
        return []
    holds, fails = test.ways[0].branch, test.ways[0].next
    ways = []
    for compared, branch, other in ((relation, holds, fails), (_OPPOSITES[relation], fails, holds)):
        stop = _own_stop(step, compared, ends=isinstance(branch, End))
        if stop is not None:
            ways.append(Way(stop, branch, other))
    return ways


def _own_stop(step: Step, relation: str, *, ends: bool) -> Flow | None:
    if step.atom.flags & Flow.STOP_ON_NEGATIVE:
        # A failure must end the program, so nothing else may skip.
        return _STOPS_OF_CHECKED.get(relation) if ends else None
    stop = _STOPS_AT_ZERO.get(relation)
    if ends and step.atom.operation.is_io and stop is not Flow.STOP_ON_ZERO:
        # Ending at a negative value of I/O would be a failure, not what was asked for.
        return None
    return stop


def _compared_with_zero(condition: Condition, value: Integer) -> str | None:
    """Return how a condition compares `value` with zero; None if it does something else."""
    left, relation, right = condition.left, condition.relation, condition.right
    if isinstance(left, int):
        left, relation, right = right, _MIRRORED[relation], left
    if left is not value or not isinstance(right, int):
        return None
    if right == 1 and relation in ("<", ">="):
        return {"<": "<=", ">=": ">"}[relation]
    if right == -1 and relation in (">", "<="):
        return {">": ">=", "<=": "<"}[relation]
    return relation if right == 0 else None


def _passed(target: Target) -> Target:
    """Return where flow gets to from `target`, past nodes that only pass it on."""
    seen = set()
    while isinstance(target, Node) and target.step is None and target.condition is None:
        if target in seen:
            raise target.place.refusal("this loop does nothing, for ever")
        seen.add(target)
        assert target.next is not None
        target = target.next
    return target


def _targets(node: Node) -> list[Target]:
    if node.ways:
        return [node.ways[0].branch, node.ways[0].next]
    assert node.next is not None
    return [node.next]
