"""Random programs for comparing executors: tables that do real I/O in a folder, and always end.

A program gets the folder's descriptor as its one argument. It is a row of *clusters*, each a few
atoms that belong together. Flow jumps forward to the beginning of any cluster, and back only past
a counter that lets it pass a few times, so that every run ends. A descriptor that a program
closes is opened in the same cluster, so that no other thread's descriptor is ever hit.

What a run gives, and what it leaves in the folder, is the same for every executor: values that
differ between runs, such as descriptors, inodes and times, are neither computed with nor returned.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st
from threadlets._syslets.operations import Flow
from threadlets._syslets.table import ABSENT, Table

_NAMES = [b"a", b"b", b"sub", b"sub/c", b"sub/d", b"link", b"missing/e", b"new"]
_BUFFER_SIZE = 64
_GROWING_LIMIT = 300
_OFFSET_MAX = 4096
_NO_FLAGS = Flow(0)
_HOW = [_NO_FLAGS, _NO_FLAGS, Flow.ASYNC, Flow.SYNC]
_CONDITIONS = [
    Flow(0),
    Flow.STOP_ON_ZERO,
    Flow.STOP_ON_NONZERO,
    Flow.STOP_ON_NEGATIVE,
    Flow.STOP_ON_NON_POSITIVE,
    Flow.STOP_ON_ZERO | Flow.STOP_ON_NEGATIVE,
]
_OPEN_FLAGS = [
    os.O_RDONLY,
    os.O_RDWR,
    os.O_RDWR,
    os.O_RDWR | os.O_CREAT,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    os.O_RDWR | os.O_APPEND,
    os.O_RDONLY | os.O_DIRECTORY,
]
_AT_REMOVEDIR = 0x200
_AT_EMPTY_PATH = 0x1000
_STATX_BASIC_STATS = 0x7FF
_SIZE_FIELD = 5


@dataclass(frozen=True)
class Case:
    """A program, and the files that it finds in its folder."""

    table: Table
    files: dict[str, bytes]

    def make_folder(self, folder: Path) -> None:
        """Write the files into `folder`."""
        (folder / "sub").mkdir()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        (folder / "link").symlink_to("a")


def snapshot(folder: Path) -> dict[str, object]:
    """Return each name in `folder` with its mode, its number of links and its content."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
        found[str(path.relative_to(folder))] = (mode, path.lstat().st_nlink, content)
    return found


@dataclass
class _Atom:
    op: str
    operands: tuple[int, ...]
    result: int = ABSENT
    flags: Flow = _NO_FLAGS
    target: int | None = None
    """The cluster at which the flow continues; None: the next atom in the table."""


@dataclass
class _Draft:
    """A program that is being drawn."""

    draw: Callable[[st.SearchStrategy[int]], int]
    slots: list[int] = field(default_factory=list)
    objects: list[tuple[object, ...]] = field(default_factory=list)
    clusters: list[list[_Atom]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Slots of small numbers that are the same in every run."""

    def pick(self, options: list[int]) -> int:
        return options[self.draw(st.integers(0, len(options) - 1))]

    def between(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def slot(self, initial: int = 0) -> int:
        self.slots.append(initial)
        return len(self.slots) - 1

    def constant(self, low: int, high: int) -> int:
        return self.slot(self.between(low, high))

    def object(self, *row: object) -> int:
        self.objects.append(row)
        return len(self.objects) - 1

    def path(self) -> int:
        return self.object("path", _NAMES[self.between(0, len(_NAMES) - 1)])

    def number(self) -> int:
        slot = self.slot(self.between(-2, 4))
        self.numbers.append(slot)
        return slot

    def flags(self) -> Flow:
        """Draw flags that any atom may have: how it runs, what stops the flow, and where it goes."""
        flags = _HOW[self.between(0, len(_HOW) - 1)]
        flags |= _CONDITIONS[self.between(0, len(_CONDITIONS) - 1)]
        if self.between(0, 3):
            flags |= Flow.SKIP_TO_NEXT_ON_STOP
        return flags | (Flow.NO_COMPLETE if self.between(0, 4) == 0 else Flow(0))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a program of a few clusters and the files that it finds."""
    draft = _Draft(draw)
    folder = draft.slot()
    memory = _Memory(draft)
    fds = [_open(draft, folder) for _ in range(draft.between(1, 3))]
    for _ in range(draft.between(1, 3)):
        draft.number()
    n_clusters = draft.between(1, 10)
    first = len(draft.clusters)
    for index in range(first, first + n_clusters):
        kind = draft.between(0, 9)
        if kind <= 4:
            _transfer(draft, memory, draft.pick(fds))
        elif kind == 5:
            _compute(draft)
        elif kind == 6:
            _name_operation(draft, folder)
        elif kind == 7:
            _visit(draft, memory, folder)
        elif kind == 8:
            _ask(draft, folder, fds)
        else:
            _go_back(draft, first, index)
    draft.clusters.append([_Atom("nop", ())])
    files = {
        name: bytes(draw(st.binary(max_size=200)))
        for name in ("a", "b", "sub/c")
        if draft.between(0, 5)
    }
    outcomes = _outcomes(draft, memory)
    table = Table(
        "case",
        _rows(draft, len(outcomes)),
        draft.slots,
        draft.objects,
        [("folder", "fd", folder, ...)],
        outcomes,
    )
    return Case(table, files)


class _Memory:
    """The memory of a program: a buffer, memory that grows, constant bytes, vectors of them."""

    def __init__(self, draft: _Draft) -> None:
        self._draft = draft
        self.buffer = draft.object("buffer", draft.slot(_BUFFER_SIZE))
        self.growing = draft.object("growing", draft.slot(_GROWING_LIMIT))
        self.data = draft.object("data", b"0123456789" * draft.between(0, 4))
        self.n_read = draft.slot()
        self.size = draft.constant(-1, 150)
        self.read_bytes = draft.object("read_bytes", self.size, self.n_read)

    def target(self) -> tuple[int, int, int]:
        if self._draft.between(0, 4) == 0:
            return self.growing, ABSENT, ABSENT
        return self._part_of_buffer()

    def source(self) -> tuple[int, int, int]:
        choice = self._draft.between(0, 3)
        if choice <= 1:
            return self.data, ABSENT, ABSENT
        return self._part_of_buffer() if choice == 2 else self._part_of_bytes()

    def vector(self, part: Callable[[], tuple[int, int, int]]) -> int:
        parts = tuple(part() for _ in range(self._draft.between(1, 3)))
        return self._draft.object("vector", parts)

    def _part_of_bytes(self) -> tuple[int, int, int]:
        draft = self._draft
        ends = draft.between(0, 3)
        start = draft.constant(0, 100) if ends else ABSENT
        return self.read_bytes, start, draft.constant(0, 100) if ends > 1 else ABSENT

    def _part_of_buffer(self) -> tuple[int, int, int]:
        draft = self._draft
        start = draft.between(0, _BUFFER_SIZE)
        length = draft.slot(draft.between(0, _BUFFER_SIZE - start))
        ends = draft.between(0, 3)
        return self.buffer, draft.slot(start) if ends else ABSENT, length if ends > 1 else ABSENT


def _open(draft: _Draft, folder: int) -> int:
    """Open a file that stays open; its descriptor may turn out to be an error."""
    fd = draft.slot(-1)
    flags = draft.slot(draft.pick(_OPEN_FLAGS) | os.O_CLOEXEC)
    # Most paths are "a", which usually exists.
    path = draft.path() if draft.between(0, 3) == 0 else draft.object("path", b"a")
    operands = [folder, path, flags, draft.slot(0o644)]
    op = "openat2" if draft.between(0, 3) == 0 else "openat"
    if op == "openat2":
        operands[3] = draft.slot(0o600 if draft.slots[flags] & os.O_CREAT else 0)
        operands.append(draft.slot(draft.pick([0, 4, 8])))
    draft.clusters.append([_Atom(op, tuple(operands), fd, _HOW[draft.between(0, 3)])])
    return fd


def _transfer(draft: _Draft, memory: _Memory, fd: int) -> None:
    """Read, write or resize a file in one of many ways, and keep the value."""
    count = draft.slot()
    offset = draft.constant(-1, _OFFSET_MAX)
    maybe_offset = offset if draft.between(0, 1) else ABSENT
    whole = (memory.read_bytes, ABSENT, ABSENT)
    atom = [
        lambda: _Atom("read", (fd, *memory.target())),
        lambda: _Atom("write", (fd, *memory.source())),
        lambda: _Atom("pread", (fd, *memory.target(), offset)),
        lambda: _Atom("pwrite", (fd, *memory.source(), offset)),
        lambda: _Atom("readv", (fd, memory.vector(memory._part_of_buffer), maybe_offset)),
        lambda: _Atom("writev", (fd, memory.vector(memory.source), maybe_offset)),
        lambda: _Atom("ftruncate", (fd, draft.constant(-1, 500))),
        lambda: _Atom(
            "fallocate",
            (fd, draft.slot(0), draft.constant(0, 100), draft.constant(0, 500)),
        ),
        lambda: _Atom("fdatasync" if draft.between(0, 1) else "fsync", (fd,)),
        lambda: _Atom("read", (fd, *whole), memory.n_read),
        lambda: _Atom("pread", (fd, *whole, offset), memory.n_read),
    ][draft.between(0, 10)]()
    atom.flags = draft.flags()
    if atom.result == ABSENT:
        atom.result = count
        draft.numbers.append(count)
    draft.clusters.append([atom])


def _compute(draft: _Draft) -> None:
    """Add numbers; the sum is tested and returned, but is never a size or an offset."""
    total = draft.number() if draft.between(0, 1) else draft.pick(draft.numbers)
    factor = draft.slot(draft.pick([-1, 0, 1, 2, 2**62, -(2**63)]))
    operands = (draft.pick(draft.numbers), draft.pick(draft.numbers), factor)
    draft.clusters.append([_Atom("add", operands, total, draft.flags())])


def _name_operation(draft: _Draft, folder: int) -> None:
    """Make, link, rename or remove something."""
    zero = draft.slot(0)
    atom = [
        lambda: _Atom("mkdirat", (folder, draft.path(), draft.slot(0o755))),
        lambda: _Atom(
            "unlinkat", (folder, draft.path(), draft.slot(draft.pick([0, _AT_REMOVEDIR])))
        ),
        lambda: _Atom(
            "renameat",
            (folder, draft.path(), folder, draft.path(), draft.slot(draft.pick([0, 1, 2]))),
        ),
        lambda: _Atom("linkat", (folder, draft.path(), folder, draft.path(), zero)),
        lambda: _Atom("symlinkat", (draft.path(), folder, draft.path())),
    ][draft.between(0, 4)]()
    atom.result, atom.flags = draft.slot(), draft.flags()
    draft.numbers.append(atom.result)
    draft.clusters.append([atom])


def _visit(draft: _Draft, memory: _Memory, folder: int) -> None:
    """Open a file, do something with it, and close it; if it cannot be opened, the run ends."""
    fd, flags = draft.slot(-1), draft.slot(draft.pick(_OPEN_FLAGS) | os.O_CLOEXEC)
    opening = _Atom(
        "openat",
        (folder, draft.path(), flags, draft.slot(0o640)),
        fd,
        Flow.STOP_ON_NEGATIVE | _HOW[draft.between(0, 3)],
    )
    _transfer(draft, memory, fd)
    (visiting,) = draft.clusters.pop()
    if visiting.flags & ~(Flow.ASYNC | Flow.SYNC | Flow.NO_COMPLETE):
        visiting.flags |= Flow.SKIP_TO_NEXT_ON_STOP
    closing = _Atom("close", (fd,), ABSENT, _HOW[draft.between(0, 3)])
    draft.clusters.append([opening, visiting, closing])


def _ask(draft: _Draft, folder: int, fds: list[int]) -> None:
    """Ask for a status, wait briefly, send one file to another, or fail to splice two files."""
    value = draft.slot()
    choice = draft.between(0, 4)
    if choice <= 1:
        fields = len(draft.slots)
        for _ in range(16):
            draft.slot()
        draft.numbers.append(fields + _SIZE_FIELD)
        where, path, flags = folder, draft.path(), 0
        if choice == 1:
            where, path, flags = draft.pick(fds), draft.object("path", b""), _AT_EMPTY_PATH
        mask = draft.slot(_STATX_BASIC_STATS)
        atom = _Atom("statx", (where, path, draft.slot(flags), mask, fields))
    elif choice == 2:
        atom = _Atom("timeout", (draft.slot(draft.pick([0, 1000, 100_000])),))
    elif choice == 3:
        target, source = draft.pick(fds), draft.pick(fds)
        offset = draft.constant(0, 100) if draft.between(0, 1) else ABSENT
        atom = _Atom("sendfile", (target, source, offset, draft.constant(0, 100)))
        if target == source:
            # The result of sending a file to itself depends on the kernel.
            atom = _Atom("fdatasync", (target,))
    else:
        out_offset = draft.constant(0, 9) if draft.between(0, 1) else ABSENT
        # Neither descriptor is a pipe, so splice fails, with one of several errors.
        zero = draft.slot(0)
        operands = (draft.pick(fds), ABSENT, draft.pick(fds), out_offset, draft.slot(9), zero)
        atom = _Atom("splice", operands)
    atom.result, atom.flags = value, draft.flags()
    if choice != 3:
        draft.numbers.append(value)
    draft.clusters.append([atom])


def _go_back(draft: _Draft, first: int, index: int) -> None:
    """Go back to an earlier cluster, a few times in all."""
    passes = draft.constant(1, 4)
    down = _Atom("add", (passes, draft.slot(-1), draft.slot(1)), passes)
    down.flags = Flow.STOP_ON_NON_POSITIVE | Flow.SKIP_TO_NEXT_ON_STOP
    down.target = draft.between(first, index)
    # A loop without I/O is refused.
    pause = _Atom("timeout", (draft.slot(0),))
    draft.clusters.append([pause, down])


def _outcomes(draft: _Draft, memory: _Memory) -> list[tuple[object, ...]]:
    numbers = tuple(("int", slot) for slot in draft.numbers)
    whole = (memory.buffer, ABSENT, ABSENT)
    part = (memory.buffer, draft.slot(3), draft.slot(9))
    return [
        ("tuple", (*numbers, ("bytes", *whole), ("bytes", memory.growing, ABSENT, ABSENT))),
        ("none",),
        ("const", "a constant"),
        ("int", draft.numbers[0]),
        ("bytes", *part),
        ("lease", *part),
        ("bytes", memory.growing, ABSENT, ABSENT),
        ("tuple", (("int", memory.n_read), ("bytes", *memory._part_of_bytes()))),
        ("lease", memory.read_bytes, ABSENT, ABSENT),
    ]


def _rows(draft: _Draft, n_outcomes: int) -> list[tuple[str, tuple[int, ...], int, int, int, int]]:
    """Return the table's rows; now and then an atom's successor is a cluster far ahead, or none."""
    begins = [0]
    for cluster in draft.clusters:
        begins.append(begins[-1] + len(cluster))
    rows = []
    for number, cluster in enumerate(draft.clusters):
        for place, atom in enumerate(cluster):
            following = len(rows) + 1
            is_last = place == len(cluster) - 1
            if atom.target is not None:
                following = begins[atom.target]
            elif number == len(draft.clusters) - 1:
                following = ABSENT
            elif is_last and draft.between(0, 4) == 0:
                following = begins[draft.between(number + 1, len(draft.clusters) - 1)]
            elif is_last and draft.between(0, 19) == 0:
                following = ABSENT
            outcome = draft.between(0, n_outcomes - 1) if draft.between(0, 2) == 0 else 0
            flags = int(atom.flags)
            rows.append((atom.op, atom.operands, atom.result, following, flags, outcome))
    return rows
