"""The table of a program as text."""

from __future__ import annotations

from threadlets._syslets.operations import OPERATIONS, Flow, Kind
from threadlets._syslets.table import ABSENT, DebugInfo, Row, Table

_OBJECT_KINDS = {
    Kind.PATH,
    Kind.SOURCE,
    Kind.TARGET,
    Kind.SOURCES,
    Kind.TARGETS,
    Kind.CONTROL_SOURCE,
    Kind.CONTROL_TARGET,
    Kind.ADDRESS,
    Kind.OPTIONAL_ADDRESS,
    Kind.PEER,
}


def explain(table: Table, debug_info: DebugInfo) -> str:
    """Return a line for each atom: index, operation, operands, result, next, flags, source.

    `end` is the end of the program; the value that a run returns there follows it.
    """
    parameters = ", ".join(f"{name}: {kind}" for name, kind, _, _ in table.parameters)
    lines = [
        (
            str(index),
            row.op,
            _operands(row, debug_info),
            "" if row.result == ABSENT else f"→ {debug_info.slots[row.result]}",
            f"next {row.next}"
            if row.next != ABSENT
            else f"end: {_outcome(table, row, debug_info)}",
            _flags(row.flags, table, row, debug_info),
            f"line {debug_info.locations[index].line}",
        )
        for index, row in enumerate(table.rows())
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([f"{table.name}({parameters})  {debug_info.location.filename}", *body])


def _operands(row: Row, debug_info: DebugInfo) -> str:
    shown = []
    columns = OPERATIONS[row.op].columns()
    for (name, kind), operand in zip(columns, row.operands, strict=True):
        if operand == ABSENT or kind is Kind.FIELDS:
            continue
        names = debug_info.objects if kind in _OBJECT_KINDS else debug_info.slots
        shown.append(f"{name}={names[operand]}")
    return " ".join(shown)


def _flags(flags: int, table: Table, row: Row, debug_info: DebugInfo) -> str:
    names = " ".join(str(flag.name) for flag in Flow if flags & flag)
    silent = Flow.ASYNC | Flow.SYNC | Flow.NO_COMPLETE
    if OPERATIONS[row.op].is_io:
        # On I/O this is the check for failures: it ends the program without a value to show.
        silent |= Flow.STOP_ON_NEGATIVE
    decides = flags & ~silent
    if decides and not flags & Flow.SKIP_TO_NEXT_ON_STOP and row.next != ABSENT:
        names += f" ({_outcome(table, row, debug_info)})"
    return names


def _outcome(table: Table, row: Row, debug_info: DebugInfo) -> str:
    return _outcome_text(table.outcomes[row.outcome], debug_info)


def _outcome_text(outcome: tuple[object, ...], debug_info: DebugInfo) -> str:
    match outcome:
        case ("none",):
            return "None"
        case ("const", value):
            return repr(value)
        case ("int" | "fd", int(slot)):
            return debug_info.slots[slot]
        case ("stat", int(slot)):
            return debug_info.slots[slot].rpartition(".")[0]
        case ("bytes" | "lease" as tag, int(memory), int(start), int(length)):
            ends = ["" if end == ABSENT else debug_info.slots[end] for end in (start, length)]
            return f"{tag} {debug_info.objects[memory]}[{ends[0]}:+{ends[1]}]"
        case ("address", int(memory)):
            return debug_info.objects[memory]
        case ("tuple", tuple(parts)):
            return f"({', '.join(_outcome_text(part, debug_info) for part in parts)})"
    return "value"
