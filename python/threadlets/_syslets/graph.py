"""The control flow of a program as a graph: atoms, and where flow goes after each.

Built from the nested statements of a trace, and simplified; knows nothing of the order of atoms in
the table.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from threadlets._syslets.locations import Location
from threadlets._syslets.operations import Flow
from threadlets._syslets.statements import AtomStatement, BreakIf, Loop, Statement, StopIf, When
from threadlets._syslets.symbols import Condition, Integer


@dataclass(frozen=True, eq=False)
class End:
    """An end of the program, and the value of a run that ends here."""

    value: object
    location: Location

    def is_same(self, other: Target) -> bool:
        """Return whether runs that end here and at `other` have the same value."""
        return isinstance(other, End) and self.value is other.value


@dataclass(frozen=True, eq=False)
class Branch:
    """One way to express a branch: to `taken` if the atom's value meets `stop`, else to `next`.

    The value of a test is left - right, or right - left if `swapped`.
    """

    stop: Flow
    taken: Target
    next: Target
    swapped: bool = False


@dataclass(eq=False)
class Node:
    """An atom: a `statement` of the function, a test of `condition`, or neither: it passes flow on.

    Flow goes to `next`. If there are `branches`, each of them says alone where flow goes, and `next`
    does not count.
    """

    location: Location
    next: Target | None = None
    statement: AtomStatement | None = None
    condition: Condition | None = None
    branches: list[Branch] = field(default_factory=list)
    number: int = field(default_factory=itertools.count().__next__)
    """Order of creation: nodes are made from last to first."""


Target: TypeAlias = Node | End

# By relation: the stop that the difference meets if it holds; whether that is right - left.
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
# By relation of an atom's value to zero: the stop of this atom that expresses it.
_STOPS_AT_ZERO = {
    "==": Flow.STOP_ON_ZERO,
    "!=": Flow.STOP_ON_NONZERO,
    "<": Flow.STOP_ON_NEGATIVE,
    "<=": Flow.STOP_ON_NON_POSITIVE,
}
# The same for checked atoms, whose negative values are failures already.
_STOPS_OF_CHECKED = {
    "==": Flow.STOP_ON_ZERO,
    "<=": Flow.STOP_ON_ZERO,
    "!=": Flow.STOP_ON_NONZERO,
    ">": Flow.STOP_ON_NONZERO,
}


def build_graph(statements: list[Statement], end: End) -> Target:
    """Return the entry of a graph that executes `statements` and then reaches `end`.

    Raises:
        SysletError: a loop is empty.
    """
    entry = _build_block(statements, end, {})
    for node in reachable_nodes(entry):
        if node.next is not None:
            node.next = _skip_forwarding(node.next)
        node.branches = [
            replace(
                branch, taken=_skip_forwarding(branch.taken), next=_skip_forwarding(branch.next)
            )
            for branch in node.branches
        ]
    return _skip_forwarding(entry)


def reachable_nodes(entry: Target) -> list[Node]:
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
    """Merge a test of an atom's value into the atom, where its own stops can express the test."""
    for node in nodes:
        test = node.next
        if node.statement is not None and isinstance(test, Node) and test.condition is not None:
            branches = _own_branches(node.statement, test)
            if branches:
                node.branches = branches


def _build_block(statements: list[Statement], after: Target, exits: dict[Loop, Target]) -> Target:
    """Return the entry of `statements`, built from last to first; flow goes to `after` from there."""
    for statement in reversed(statements):
        after = _build_statement(statement, after, exits)
    return after


def _build_statement(statement: Statement, after: Target, exits: dict[Loop, Target]) -> Target:
    match statement:
        case AtomStatement():
            return Node(statement.location, after, statement)
        case Loop():
            head = Node(statement.location)
            head.next = _build_block(statement.body, head, {**exits, statement: after})
            return head
        case When():
            otherwise = _build_block(statement.otherwise or [], after, exits)
            return _build_test(statement, _build_block(statement.body, after, exits), otherwise)
        case BreakIf():
            return _build_test(statement, exits[statement.loop], after)
        case StopIf():
            return _build_test(statement, End(statement.value, statement.location), after)


def _build_test(statement: When | BreakIf | StopIf, holds: Target, fails: Target) -> Target:
    if holds is fails:
        return holds
    node = Node(statement.location, condition=statement.condition)
    relation = statement.condition.relation
    for compared, taken, other in (
        (relation, holds, fails),
        (_OPPOSITES[relation], fails, holds),
    ):
        stop, swapped = _TESTS[compared]
        node.branches.append(Branch(stop, taken, other, swapped))
    return node


def _own_branches(statement: AtomStatement, test: Node) -> list[Branch]:
    """Return the branches that express the test after an atom by its own stops, if any do."""
    assert test.condition is not None
    relation = _compared_with_zero(test.condition, statement.value)
    if relation is None:
        return []
    holds, fails = test.branches[0].taken, test.branches[0].next
    branches = []
    for compared, taken, other in ((relation, holds, fails), (_OPPOSITES[relation], fails, holds)):
        stop = _own_stop(statement, compared, ends=isinstance(taken, End))
        if stop is not None:
            branches.append(Branch(stop, taken, other))
    return branches


def _own_stop(statement: AtomStatement, relation: str, *, ends: bool) -> Flow | None:
    if statement.atom.flags & Flow.STOP_ON_NEGATIVE:
        # A failure must end the program, so no other stop of this atom may skip.
        return _STOPS_OF_CHECKED.get(relation) if ends else None
    stop = _STOPS_AT_ZERO.get(relation)
    if ends and statement.atom.operation.is_io and stop is not Flow.STOP_ON_ZERO:
        # I/O that ends the program with a negative value is a failure; this end is a success.
        return None
    return stop


def _compared_with_zero(condition: Condition, value: Integer) -> str | None:
    """Return the relation of `value` to zero that a condition tests; None if it tests another one."""
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


def _skip_forwarding(target: Target) -> Target:
    """Return the target that flow reaches from `target`, past nodes that only pass it on."""
    seen = set()
    while isinstance(target, Node) and target.statement is None and target.condition is None:
        if target in seen:
            raise target.location.error("this loop yields no atom and never ends")
        seen.add(target)
        assert target.next is not None
        target = target.next
    return target


def _targets(node: Node) -> list[Target]:
    if node.branches:
        return [node.branches[0].taken, node.branches[0].next]
    assert node.next is not None
    return [node.next]
