"""`Storage`: the slots and objects for a program's symbols, and the types of its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from threadlets._syslets.atom import Atom, Size
from threadlets._syslets.locations import Location
from threadlets._syslets.operations import Kind
from threadlets._syslets.statements import Trace
from threadlets._syslets.symbols import (
    Address,
    Buffer,
    Condition,
    Field,
    Growing,
    Integer,
    Lease,
    Length,
    Memory,
    Parameter,
    ReadBytes,
    Record,
    Span,
    Symbol,
    Variable,
)
from threadlets._syslets.table import ABSENT

_USES = {
    Kind.NUMBER: "int",
    Kind.OPTIONAL_NUMBER: "int",
    Kind.DESCRIPTOR: "fd",
    Kind.NANOSECONDS: "seconds",
    Kind.PATH: "path",
    Kind.SOURCE: "readable",
    Kind.SOURCES: "readable",
    Kind.CONTROL_SOURCE: "readable",
    Kind.TARGET: "writable",
    Kind.TARGETS: "writable",
    Kind.CONTROL_TARGET: "writable",
    Kind.ADDRESS: "address",
    Kind.OPTIONAL_ADDRESS: "address",
}
"""The use of a parameter, by the kind of the operand; "compared" where any integer will do."""

_EMPTY_OBJECTS: dict[str, tuple[object, ...]] = {
    "path": ("path", None),
    "address": ("address", None),
    "readable": ("lent",),
    "writable": ("lent",),
}
"""The object that stands for a parameter until a run fills it, by use; integers have slots."""

_AGREEMENTS = {
    ("compared", "int"): "int",
    ("compared", "fd"): "fd",
    ("readable", "writable"): "writable",
}
"""The use that two different uses of a parameter combine to; other pairs are incompatible."""

_SpanColumns = tuple[int, int, int]


class Storage:
    """Assigns indices to symbols and constants, in the order of their first use.

    `trace` is where the symbols come from, None for atoms that were made outside of a trace.
    """

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace
        self.slots: list[int] = []
        self.slot_names: list[str] = []
        self.objects: list[tuple[object, ...]] = []
        self.object_names: list[str] = []
        self.outcomes: list[tuple[object, ...]] = []
        self.initial: set[int] = set()
        self._opened: set[Integer] = set()
        self._slot_of: dict[Symbol | int, int] = {}
        self._object_of: dict[Symbol | tuple[str, bytes], int] = {}
        self._outcome_of: dict[object, int] = {}
        self._uses: dict[Parameter, tuple[str, Location]] = {}

    def operands(self, atom: Atom, value: Integer, location: Location) -> tuple[int, ...]:
        """Return the columns of an atom's operands; the fields it fills in are those of `value`."""
        if atom.operation.opens:
            self._opened.add(value)
        columns: list[int] = []
        given = iter(atom.operands)
        for _, kind in atom.operation.operands:
            if kind is Kind.FIELDS:
                record = value if isinstance(value, Record) else Record(atom.operation.name)
                columns.append(self.slot(record, location) + 1)
                continue
            operand = next(given)
            if isinstance(operand, Size):
                assert isinstance(value, Length)
                operand = Span(value.data, None, None)
            columns += self._columns(operand, kind, location)
        return tuple(columns)

    def result(self, value: Integer) -> int:
        """Return the slot that an atom's value is stored in; ABSENT if nothing has used it so far."""
        return self._slot_of.get(value, ABSENT)

    def slot(self, value: Integer | int, location: Location, use: str = "compared") -> int:
        """Return the slot of an integer; the slots of a record's fields follow its own."""
        if isinstance(value, Parameter):
            self._use(value, use, location)
        if isinstance(value, Field):
            return self.slot(value.record, location) + 1 + value.index
        if value not in self._slot_of:
            self._slot_of[value] = len(self.slots)
            self._add_slots(value, location)
        return self._slot_of[value]

    def difference(self, condition: Condition, swapped: bool) -> tuple[int, int, int]:
        """Return the operands of `add` for left - right, or for right - left if `swapped`."""
        left, right = condition.left, condition.right
        if swapped:
            left, right = right, left
        factor = 1 if isinstance(right, int) and right == 0 else -1
        slots = [self.slot(value, condition.location) for value in (left, right, factor)]
        return slots[0], slots[1], slots[2]

    def outcome(self, value: object, location: Location) -> int:
        """Return the index of the outcome of a run that ends with `value`, a symbol or a constant."""
        outcome = self._outcome(value, location)
        key = outcome if outcome[0] not in ("const", "tuple") else id(value)
        if key not in self._outcome_of:
            self._outcome_of[key] = len(self.outcomes)
            self.outcomes.append(outcome)
        return self._outcome_of[key]

    def parameters(
        self, parameters: Sequence[Parameter], location: Location
    ) -> list[tuple[str, str, int, object]]:
        """Return the parameters as rows of the table.

        Raises:
            SysletError: a parameter is not used, or its default is of the wrong type.
        """
        rows = []
        for parameter in parameters:
            if parameter not in self._uses:
                raise location.error(f"the parameter {parameter.name} is not used")
            use, use_location = self._uses[parameter]
            kind = "int" if use == "compared" else use
            if not _fits(parameter.default, kind):
                raise location.type_error(
                    f"the default of {parameter.name} is {parameter.default!r}, but it is used as "
                    f"{kind} at {use_location}"
                )
            index = (self._object_of if use in _EMPTY_OBJECTS else self._slot_of)[parameter]
            rows.append((str(parameter.name), kind, index, parameter.default))
        return rows

    def _columns(self, operand: Any, kind: Kind, location: Location) -> Sequence[int]:
        if operand is None:
            return [ABSENT]
        if kind in (Kind.SOURCE, Kind.TARGET):
            return self._span(operand, kind, location)
        if kind in (Kind.SOURCES, Kind.TARGETS):
            spans = tuple(self._span(part, kind, location) for part in operand)
            return [self._add_object(("vector", spans), "+".join(map(self._object_name, spans)))]
        if kind is Kind.PEER or _USES[kind] in _EMPTY_OBJECTS:
            return [self._object(operand, kind, location)]
        return [self.slot(operand, location, _USES[kind])]

    def _span(self, operand: Span | bytes, kind: Kind, location: Location) -> _SpanColumns:
        if isinstance(operand, bytes):
            return self._object(operand, kind, location), ABSENT, ABSENT
        start, length = (
            ABSENT if end is None else self.slot(end, location, "int")
            for end in (operand.start, operand.length)
        )
        return self._object(operand.memory, kind, location), start, length

    def _object(self, operand: Any, kind: Kind, location: Location) -> int:
        if isinstance(operand, Parameter):
            self._use(operand, _USES[kind], location)
        key = operand if isinstance(operand, Symbol) else (kind.value, operand)
        try:
            known = self._object_of.get(key)
        except TypeError:  # An address may be unhashable.
            known = None
        if known is None:
            known = self._add_object(*self._new_object(operand, kind, location))
            if isinstance(operand, Symbol | bytes):
                self._object_of[key] = known
        return known

    def _new_object(
        self, operand: Any, kind: Kind, location: Location
    ) -> tuple[tuple[Any, ...], str]:
        if not isinstance(operand, Symbol):
            tag = {"path": "path", "address": "address"}.get(_USES[kind], "data")
            return (tag, operand), repr(operand)
        self._check(operand, location)
        name = operand.name or f"memory of {operand.location}"
        if isinstance(operand, Buffer):
            return ("buffer", self.slot(operand.size, operand.location, "int")), name
        if isinstance(operand, ReadBytes):
            size = self.slot(operand.size, operand.location, "int")
            return ("read_bytes", size, self.slot(operand.length, operand.location)), name
        if isinstance(operand, Growing):
            limit = self.slot(operand.limit, operand.location, "int")
            if operand.expected is None:
                return ("growing", limit), name
            return ("growing", limit, self.slot(operand.expected, operand.location, "int")), name
        if isinstance(operand, Address):
            return ("address", None), name
        return _EMPTY_OBJECTS[_USES[kind]], name

    def _add_object(self, row: tuple[object, ...], name: str) -> int:
        self.objects.append(row)
        self.object_names.append(name)
        return len(self.objects) - 1

    def _object_name(self, span: _SpanColumns) -> str:
        return self.object_names[span[0]]

    def _add_slots(self, value: Integer | int, location: Location) -> None:
        fields: tuple[str, ...] = ()
        if isinstance(value, int):
            initial, name = value, str(value)
        else:
            self._check(value, location)
            initial = value.initial if isinstance(value, Variable) else 0
            if isinstance(value, Length) and value.data.name:
                value.name = value.name or f"{value.data.name}.length"
            name = value.name or f"v{len(self.slots)}"
            fields = value.fields if isinstance(value, Record) else ()
        if isinstance(value, int | Variable | Parameter):
            self.initial.add(len(self.slots))
        self.slots += [initial, *(0 for _ in fields)]
        self.slot_names += [name, *(f"{name}.{field}" for field in fields)]

    def _check(self, symbol: Symbol, location: Location) -> None:
        if symbol.trace is not None and symbol.trace is not self._trace:
            raise location.error(
                f"{symbol!r} was made at {symbol.location} by another syslet: it has no value here"
            )

    def _use(self, parameter: Parameter, use: str, location: Location) -> None:
        """Record a use of a parameter, and refuse it if it contradicts an earlier use."""
        known, known_location = self._uses.setdefault(parameter, (use, location))
        agreement = use if known == use else None
        agreement = agreement or _AGREEMENTS.get((known, use)) or _AGREEMENTS.get((use, known))
        if agreement is None:
            raise location.type_error(
                f"the parameter {parameter.name} is used as {use} here, but as {known} at "
                f"{known_location}"
            )
        if agreement != known:
            self._uses[parameter] = (agreement, location)

    def _outcome(self, value: object, location: Location) -> tuple[object, ...]:
        if value is None:
            return ("none",)
        if isinstance(value, tuple):
            return ("tuple", tuple(self._outcome(part, location) for part in value))
        if isinstance(value, Lease):
            return ("lease", *self._span(value.span, Kind.SOURCE, location))
        if isinstance(value, Span):
            return ("bytes", *self._span(value, Kind.SOURCE, location))
        if isinstance(value, Address):
            return ("address", self._object(value, Kind.PEER, location))
        if isinstance(value, Parameter) and self._uses.get(value, ("", location))[0] == "address":
            return ("address", self._object(value, Kind.ADDRESS, location))
        is_memory = isinstance(value, Memory)
        if isinstance(value, Parameter):
            is_memory = self._uses.get(value, ("", location))[0] in _EMPTY_OBJECTS
        if is_memory:
            assert isinstance(value, Memory)
            return ("bytes", *self._span(Span(value, None, None), Kind.SOURCE, location))
        if isinstance(value, Integer):
            return self._integer_outcome(value, location)
        if isinstance(value, Condition | Atom | list | dict | set):
            raise location.type_error(
                f"{value!r} cannot be returned: take symbols, tuples of them, and constants"
            )
        return ("const", value)

    def _integer_outcome(self, value: Integer, location: Location) -> tuple[object, ...]:
        slot = self.slot(value, location)
        if isinstance(value, Record) and value.operation_name == "statx":
            return ("stat", slot + 1)
        if isinstance(value, Record) and value.operation_name == "waitid":
            return ("tuple", tuple(("int", slot + 1 + i) for i in range(len(value.fields))))
        return ("fd" if value in self._opened else "int", slot)


def _fits(default: object, kind: str) -> bool:
    if default is ...:
        return True
    if kind == "int":
        return isinstance(default, int)
    if kind == "fd":
        return isinstance(default, int) or hasattr(default, "fileno")
    if kind == "seconds":
        return isinstance(default, int | float)
    if kind == "path":
        return isinstance(default, str | bytes) or hasattr(default, "__fspath__")
    if kind == "address":
        return isinstance(default, tuple | str | bytes)
    return isinstance(default, bytes | bytearray | memoryview)
