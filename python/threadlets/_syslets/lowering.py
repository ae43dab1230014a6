"""Lowering of a traced function, or of a list of atoms, to the table that the native core runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from threadlets._syslets.arrangement import Placed, arrange
from threadlets._syslets.atom import Atom
from threadlets._syslets.checks import check
from threadlets._syslets.graph import End, Node, build, merge_tests, nodes_from
from threadlets._syslets.operations import Flow
from threadlets._syslets.places import Place
from threadlets._syslets.storage import Storage
from threadlets._syslets.symbols import Parameter, value_of
from threadlets._syslets.table import ABSENT, Notes, Table
from threadlets._syslets.trace import Loop, Statement, Step, When
from threadlets._syslets.tracing import Traced


def lower(traced: Traced) -> tuple[Table, Notes]:
    """Return the table of a traced function.

    Raises:
        SysletError: the program reads a value that is not set, never ends, or has unreachable parts.
    """
    entry = build(traced.trace.statements, End(traced.value, traced.value_place))
    if isinstance(entry, End) or not any(_steps(traced.trace.statements)):
        raise traced.place.refusal(f"{traced.name}() yields nothing: a syslet yields atoms")
    nodes = nodes_from(entry)
    _check_all_reached(traced.trace.statements, nodes)
    merge_tests(nodes)
    placed = arrange(nodes_from(entry), entry)

    storage = Storage(traced.trace)
    index_of = {each.node: index for index, each in enumerate(placed)}
    operations = [_operation(each, storage) for each in placed]
    # Outcomes come after the operands, whose kinds decide the types of the parameters.
    outcomes = [
        0 if each.end is None else storage.outcome(each.end.value, each.end.place)
        for each in placed
    ]
    if not storage.outcomes:
        storage.outcome(None, traced.place)
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
        storage.parameters(traced.parameters, traced.place),
        storage.outcomes,
    )
    places = [each.node.place for each in placed]
    endings = [each.node.place if each.end is None else each.end.place for each in placed]
    return _checked(table, storage, traced.place, places, endings)


def lower_atoms(
    name: str, atoms: Sequence[Atom], parameters: Sequence[Parameter], place: Place
) -> tuple[Table, Notes]:
    """Return the table of a list of atoms; a run begins with the first one.

    Raises:
        SysletError: the list is empty, an atom's successor does not exist, or the program never ends.
    """
    if not atoms:
        raise place.refusal("there are no atoms: a syslet has at least one")
    storage = Storage(None)
    outcomes: list[tuple[object, ...]] = [("atom",)]
    drafts = []
    for index, atom in enumerate(atoms):
        if not isinstance(atom, Atom):
            raise place.type_refusal(f"{atom!r} is no atom: take what threadlets.atoms gives")
        following = index + 1 if atom.next is ... else atom.next
        if following is None or (atom.next is ... and following == len(atoms)):
            following = ABSENT
        elif not isinstance(following, int) or not 0 <= following < len(atoms):
            raise atom.place.refusal(
                f"{atom.operation.name} has the successor {following!r}, but there are "
                f"{len(atoms)} atoms, counted from 0"
            )
        value = value_of(atom)
        operands = storage.operands(atom, value, atom.place)
        drafts.append((atom, value, operands, following))
    rows = [
        (atom.operation.name, operands, storage.result(value), following, int(atom.flags), 0)
        for atom, value, operands, following in drafts
    ]
    given = storage.parameters(parameters, place)
    table = Table(name, rows, storage.slots, storage.objects, given, outcomes)
    places = [atom.place for atom in atoms]
    return _checked(table, storage, place, places, places)


def _operation(placed: Placed, storage: Storage) -> tuple[str, tuple[int, ...], int]:
    """Return an atom's operation, its operands and its flags."""
    node, way = placed.node, placed.way
    flags = Flow(0) if way is None else way.stop
    if placed.skips:
        flags |= Flow.SKIP_TO_NEXT_ON_STOP
    if node.step is not None:
        atom = node.step.atom
        operands = storage.operands(atom, node.step.value, node.place)
        return atom.operation.name, operands, int(flags | atom.flags)
    if node.condition is not None:
        assert way is not None
        return "add", storage.difference(node.condition, way.swapped), int(flags)
    return "nop", (), int(flags)


def _result(placed: Placed, storage: Storage) -> int:
    step = placed.node.step
    return ABSENT if step is None else storage.result(step.value)


def _next(placed: Placed, index_of: dict[Node, int]) -> int:
    return ABSENT if isinstance(placed.next, End) else index_of[placed.next]


def _steps(statements: Sequence[Statement]) -> Iterator[Step]:
    for statement in statements:
        if isinstance(statement, Step):
            yield statement
        elif isinstance(statement, Loop):
            yield from _steps(statement.body)
        elif isinstance(statement, When):
            yield from _steps(statement.body)
            yield from _steps(statement.otherwise or [])


def _check_all_reached(statements: Sequence[Statement], nodes: Sequence[Node]) -> None:
    reached = {node.step for node in nodes}
    for step in _steps(statements):
        if step not in reached:
            raise step.place.refusal(
                f"{step.atom.operation.name} is never reached: nothing breaks the loop before it"
            )


def _checked(
    table: Table, storage: Storage, place: Place, places: list[Place], endings: list[Place]
) -> tuple[Table, Notes]:
    notes = Notes(
        place,
        places,
        endings,
        storage.slot_names,
        storage.object_names,
        frozenset(storage.initial),
    )
    check(table, notes)
    return table, notes
