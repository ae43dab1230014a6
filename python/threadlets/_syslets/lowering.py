"""Lowering of a traced function, or of a list of atoms, to the table that the native core runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from threadlets._syslets.arrangement import PlacedNode, arrange
from threadlets._syslets.atom import Atom
from threadlets._syslets.checks import check
from threadlets._syslets.graph import End, Node, build_graph, merge_tests, reachable_nodes
from threadlets._syslets.locations import Location
from threadlets._syslets.operations import Flow
from threadlets._syslets.statements import AtomStatement, Loop, Statement, When
from threadlets._syslets.storage import Storage
from threadlets._syslets.symbols import Parameter, symbol_for
from threadlets._syslets.table import ABSENT, DebugInfo, Table
from threadlets._syslets.tracing import TracedFunction


def lower(traced: TracedFunction) -> tuple[Table, DebugInfo]:
    """Return the table of a traced function.

    Raises:
        SysletError: the program reads a value that is not set, never ends, or has unreachable parts.
    """
    entry = build_graph(traced.trace.statements, End(traced.value, traced.value_location))
    if isinstance(entry, End) or not any(_atom_statements(traced.trace.statements)):
        raise traced.location.error(f"{traced.name}() yields nothing: a syslet yields atoms")
    nodes = reachable_nodes(entry)
    _check_all_reached(traced.trace.statements, nodes)
    merge_tests(nodes)
    placed = arrange(reachable_nodes(entry), entry)

    storage = Storage(traced.trace)
    index_of = {each.node: index for index, each in enumerate(placed)}
    operations = [_operation(each, storage) for each in placed]
    # Outcomes come after the operands, whose kinds decide the types of the parameters.
    outcomes = [
        0 if each.end is None else storage.outcome(each.end.value, each.end.location)
        for each in placed
    ]
    if not storage.outcomes:
        storage.outcome(None, traced.location)
    # Results come last: a value that nothing reads needs no slot.
    rows = [
        (name, operands, _result(each, storage), _next(each, index_of), flags, outcome)
        for each, (name, operands, flags), outcome in zip(placed, operations, outcomes, strict=True)
    ]
    table = Table(
        traced.name,
        rows,
        storage.slots,
        storage.objects,
        storage.parameters(traced.parameters, traced.location),
        storage.outcomes,
    )
    locations = [each.node.location for each in placed]
    endings = [each.node.location if each.end is None else each.end.location for each in placed]
    return _check_table(table, storage, traced.location, locations, endings)


def lower_atoms(
    name: str, atoms: Sequence[Atom], parameters: Sequence[Parameter], location: Location
) -> tuple[Table, DebugInfo]:
    """Return the table of a list of atoms; a run begins with the first one.

    Raises:
        SysletError: the list is empty, an atom's successor does not exist, or the program never ends.
    """
    if not atoms:
        raise location.error("there are no atoms: a syslet has at least one")
    storage = Storage(None)
    outcomes: list[tuple[object, ...]] = [("atom",)]
    drafts = []
    for index, atom in enumerate(atoms):
        if not isinstance(atom, Atom):
            raise location.type_error(f"{atom!r} is no atom: take what threadlets.atoms gives")
        following = index + 1 if atom.next is ... else atom.next
        if following is None or (atom.next is ... and following == len(atoms)):
            following = ABSENT
        elif not isinstance(following, int) or not 0 <= following < len(atoms):
            raise atom.location.error(
                f"{atom.operation.name} has the successor {following!r}, but there are "
                f"{len(atoms)} atoms, counted from 0"
            )
        value = symbol_for(atom)
        operands = storage.operands(atom, value, atom.location)
        drafts.append((atom, value, operands, following))
    rows = [
        (atom.operation.name, operands, storage.result(value), following, int(atom.flags), 0)
        for atom, value, operands, following in drafts
    ]
    given = storage.parameters(parameters, location)
    table = Table(name, rows, storage.slots, storage.objects, given, outcomes)
    locations = [atom.location for atom in atoms]
    return _check_table(table, storage, location, locations, locations)


def _operation(placed: PlacedNode, storage: Storage) -> tuple[str, tuple[int, ...], int]:
    """Return an atom's operation, its operands and its flags."""
    node, branch = placed.node, placed.branch
    flags = Flow(0) if branch is None else branch.stop
    if placed.skips:
        flags |= Flow.SKIP_TO_NEXT_ON_STOP
    if node.statement is not None:
        atom = node.statement.atom
        operands = storage.operands(atom, node.statement.value, node.location)
        return atom.operation.name, operands, int(flags | atom.flags)
    if node.condition is not None:
        assert branch is not None
        return "add", storage.difference(node.condition, branch.swapped), int(flags)
    return "nop", (), int(flags)


def _result(placed: PlacedNode, storage: Storage) -> int:
    statement = placed.node.statement
    return ABSENT if statement is None else storage.result(statement.value)


def _next(placed: PlacedNode, index_of: dict[Node, int]) -> int:
    return ABSENT if isinstance(placed.next, End) else index_of[placed.next]


def _atom_statements(statements: Sequence[Statement]) -> Iterator[AtomStatement]:
    for statement in statements:
        if isinstance(statement, AtomStatement):
            yield statement
        elif isinstance(statement, Loop):
            yield from _atom_statements(statement.body)
        elif isinstance(statement, When):
            yield from _atom_statements(statement.body)
            yield from _atom_statements(statement.otherwise or [])


def _check_all_reached(statements: Sequence[Statement], nodes: Sequence[Node]) -> None:
    reached = {node.statement for node in nodes}
    for statement in _atom_statements(statements):
        if statement not in reached:
            raise statement.location.error(
                f"{statement.atom.operation.name} is never reached: nothing breaks the loop before it"
            )


def _check_table(
    table: Table,
    storage: Storage,
    location: Location,
    locations: list[Location],
    endings: list[Location],
) -> tuple[Table, DebugInfo]:
    debug_info = DebugInfo(
        location,
        locations,
        endings,
        storage.slot_names,
        storage.object_names,
        frozenset(storage.initial),
    )
    check(table, debug_info)
    return table, debug_info
