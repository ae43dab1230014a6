"""Checks of a table before it runs: every value that it reads exists, and it can end."""

from __future__ import annotations

import graphlib
from typing import cast

from threadlets._syslets.operations import OPERATIONS, STOPS, Flow, Kind
from threadlets._syslets.table import ABSENT, DebugInfo, Row, Table

_SLOT_KINDS = (Kind.NUMBER, Kind.OPTIONAL_NUMBER, Kind.DESCRIPTOR, Kind.NANOSECONDS)


def check(table: Table, debug_info: DebugInfo) -> None:
    """Check every path through a program.

    Raises:
        SysletError: on one of the paths an atom reads a slot that has no value yet; or there is a
            loop that does no I/O, or a loop that cannot end.
    """
    rows = table.rows()
    successors = [_successors_of(rows, index) for index in range(len(rows))]
    _check_values(table, rows, successors, debug_info)
    _check_loops(rows, successors, debug_info)
    _check_endings(rows, successors, debug_info)


def _successors_of(rows: list[Row], index: int) -> list[int]:
    """Return the indices of the atoms that may run next after the atom at `index`."""
    row = rows[index]
    found = [] if row.next == ABSENT else [row.next]
    if row.flags & STOPS and row.flags & Flow.SKIP_TO_NEXT_ON_STOP and index + 1 < len(rows):
        found.append(index + 1)
    return found


def _check_values(
    table: Table, rows: list[Row], successors: list[list[int]], debug_info: DebugInfo
) -> None:
    known = _known_slots(rows, successors, debug_info)
    for index, row in enumerate(rows):
        before = known[index]
        if before is None:
            continue
        for slot in _reads(table, row) - before:
            raise debug_info.locations[index].error(
                f"{row.op} uses {debug_info.slots[slot]}, which has no value on one of the paths to here"
            )
        if _may_succeed_here(rows, index):
            after = before | _writes(row)
            for slot in _slots_of_outcome(table, table.outcomes[row.outcome]) - after:
                raise debug_info.endings[index].error(
                    f"{debug_info.slots[slot]} is returned, but has no value on one of the paths to here"
                )


def _known_slots(
    rows: list[Row], successors: list[list[int]], debug_info: DebugInfo
) -> list[set[int] | None]:
    """Return, for each atom, the slots that have a value when it begins; None: it is not reached."""
    known: list[set[int] | None] = [None] * len(rows)
    known[0] = set(debug_info.initial)
    pending = [0]
    while pending:
        index = pending.pop()
        before = known[index]
        assert before is not None
        after = before | _writes(rows[index])
        for successor in successors[index]:
            so_far = known[successor]
            agreed = after if so_far is None else so_far & after
            if agreed != so_far:
                known[successor] = agreed
                pending.append(successor)
    return known


def _check_loops(rows: list[Row], successors: list[list[int]], debug_info: DebugInfo) -> None:
    """Refuse a cycle of atoms that only compute."""
    computing = {index for index, row in enumerate(rows) if not OPERATIONS[row.op].is_io}
    graph = {index: computing & {*successors[index]} for index in computing}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise min(debug_info.locations[index] for index in error.args[1]).error(
            "this atom is in a loop that does no I/O: nothing but its own computing could end it"
        ) from None


def _check_endings(rows: list[Row], successors: list[list[int]], debug_info: DebugInfo) -> None:
    """Walk back from the atoms at which the program may end: an atom that is not met never ends."""
    comes_from: list[list[int]] = [[] for _ in rows]
    for index, following in enumerate(successors):
        for successor in following:
            comes_from[successor].append(index)
    endless = {index for index in range(len(rows)) if not _may_end(rows, index)}
    pending = [index for index in range(len(rows)) if index not in endless]
    while pending:
        for index in comes_from[pending.pop()]:
            if index in endless:
                endless.remove(index)
                pending.append(index)
    if endless:
        raise min(debug_info.locations[index] for index in endless).error(
            "nothing can end the loop that this atom is in: no atom of it is checked, and there is "
            "no break_if or stop_if"
        )


def _may_end(rows: list[Row], index: int) -> bool:
    row = rows[index]
    if row.next == ABSENT:
        return True
    skips = row.flags & Flow.SKIP_TO_NEXT_ON_STOP and index + 1 < len(rows)
    return bool(row.flags & STOPS) and not skips


def _may_succeed_here(rows: list[Row], index: int) -> bool:
    row = rows[index]
    is_check = row.flags & STOPS == Flow.STOP_ON_NEGATIVE and OPERATIONS[row.op].is_io
    return row.next == ABSENT or (_may_end(rows, index) and not is_check)


def _reads(table: Table, row: Row) -> set[int]:
    slots: set[int] = set()
    columns = OPERATIONS[row.op].columns()
    for (_, kind), operand in zip(columns, row.operands, strict=True):
        if operand == ABSENT or kind is Kind.FIELDS:
            continue
        if kind in _SLOT_KINDS:
            slots.add(operand)
        elif kind is Kind.TARGET and table.objects[operand][0] == "read_bytes":
            # The length is what the read gives.
            slots.add(cast(int, table.objects[operand][1]))
        else:
            slots |= _slots_of_object(table, operand)
    return slots


def _writes(row: Row) -> set[int]:
    slots = {row.result} - {ABSENT}
    operation = OPERATIONS[row.op]
    if operation.fields:
        first = row.operands[-1]
        slots |= set(range(first, first + len(operation.fields)))
    return slots


def _slots_of_object(table: Table, index: int) -> set[int]:
    match table.objects[index]:
        case ("growing", int(limit), int(expected)):
            return {limit, expected}
        case ("read_bytes", int(), int(length)):
            return {length}
        case ("buffer" | "growing", int(size)):
            return {size}
        case ("vector", tuple(spans)):
            return set().union(*(_slots_of_span(table, span) for span in spans))
    return set()


def _slots_of_span(table: Table, span: tuple[int, ...]) -> set[int]:
    memory, start, length = span
    return ({start, length} - {ABSENT}) | _slots_of_object(table, memory)


def _slots_of_outcome(table: Table, outcome: tuple[object, ...]) -> set[int]:
    match outcome:
        case ("int" | "fd" | "stat", int(slot)):
            return {slot}
        case ("bytes" | "lease", *span):
            return _slots_of_span(table, tuple(span))  # type: ignore[arg-type]
        case ("tuple", tuple(parts)):
            return set().union(*(_slots_of_outcome(table, part) for part in parts))
    return set()
