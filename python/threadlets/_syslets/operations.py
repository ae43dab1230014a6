"""The operations that the native core knows: their operands, in the table's order, and their flags.

Knows neither symbols nor how programs are written.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Flow(enum.IntFlag):
    """How an atom is executed, and which of its values are a stop.

    If the value meets one of the STOP conditions, flow continues with the adjacent atom if
    SKIP_TO_NEXT_ON_STOP is set, otherwise the program ends. If it meets none, flow follows the
    atom's `next`.
    """

    ASYNC = 1
    SYNC = 2
    NO_COMPLETE = 4
    STOP_ON_NONZERO = 8
    STOP_ON_ZERO = 16
    STOP_ON_NEGATIVE = 32
    STOP_ON_NON_POSITIVE = 64
    SKIP_TO_NEXT_ON_STOP = 128


STOPS = Flow.STOP_ON_NONZERO | Flow.STOP_ON_ZERO | Flow.STOP_ON_NEGATIVE | Flow.STOP_ON_NON_POSITIVE
BRANCHES = STOPS | Flow.SKIP_TO_NEXT_ON_STOP


class Kind(enum.Enum):
    """The kind of an operand, which decides how many columns of the table it takes."""

    NUMBER = "number"
    OPTIONAL_NUMBER = "number?"
    DESCRIPTOR = "descriptor"
    NANOSECONDS = "ns"
    PATH = "path"
    SOURCE = "source"
    """Memory that the operation reads: object, start, length."""
    TARGET = "target"
    """Memory that the operation writes to: object, start, length."""
    SOURCES = "sources"
    TARGETS = "targets"
    CONTROL_SOURCE = "control_source?"
    CONTROL_TARGET = "control_target?"
    ADDRESS = "address"
    OPTIONAL_ADDRESS = "address?"
    PEER = "peer?"
    """An address that the operation fills in."""
    FIELDS = "fields"
    """The first of several variables that the operation fills in."""


@dataclass(frozen=True)
class Operation:
    """An operation: its name, its operands, and what it fills in."""

    name: str
    operands: tuple[tuple[str, Kind], ...]
    fields: tuple[str, ...]
    opens: bool
    """Whether its value is a descriptor that belongs to the program."""

    @property
    def is_io(self) -> bool:
        """Whether it makes a system call; if so, a negative value is a negated errno."""
        return self.name not in ("nop", "add")

    def columns(self) -> list[tuple[str, Kind]]:
        """Return name and kind of each column of the table; a span takes three."""
        columns = []
        for name, kind in self.operands:
            columns.append((name, kind))
            if kind in (Kind.SOURCE, Kind.TARGET):
                columns += [("start", Kind.OPTIONAL_NUMBER), ("length", Kind.OPTIONAL_NUMBER)]
        return columns


_OPERANDS = """
    nop
    add        base:number amount:number factor:number
    openat     dir:descriptor path:path flags:number mode:number
    openat2    dir:descriptor path:path flags:number mode:number resolve:number
    statx      dir:descriptor path:path flags:number mask:number fields:fields
    read       fd:descriptor buffer:target
    write      fd:descriptor data:source
    pread      fd:descriptor buffer:target offset:number
    pwrite     fd:descriptor data:source offset:number
    readv      fd:descriptor buffers:targets offset:number?
    writev     fd:descriptor data:sources offset:number?
    fsync      fd:descriptor
    fdatasync  fd:descriptor
    fallocate  fd:descriptor mode:number offset:number length:number
    ftruncate  fd:descriptor length:number
    close      fd:descriptor
    unlinkat   dir:descriptor path:path flags:number
    renameat   old_dir:descriptor old_path:path new_dir:descriptor new_path:path flags:number
    mkdirat    dir:descriptor path:path mode:number
    linkat     old_dir:descriptor old_path:path new_dir:descriptor new_path:path flags:number
    symlinkat  target:path dir:descriptor path:path
    getdents   fd:descriptor buffer:target
    splice     in_fd:descriptor in_offset:number? out_fd:descriptor out_offset:number?
               length:number flags:number
    sendfile   out_fd:descriptor in_fd:descriptor offset:number? count:number
    socket     domain:number type:number protocol:number
    connect    fd:descriptor address:address
    accept     fd:descriptor flags:number address:peer?
    recv       fd:descriptor buffer:target flags:number
    send       fd:descriptor data:source flags:number
    shutdown   fd:descriptor how:number
    recvmsg    fd:descriptor buffers:targets flags:number control:control_target? address:peer?
               fields:fields
    sendmsg    fd:descriptor data:sources flags:number control:control_source? address:address?
    poll       fd:descriptor events:number
    timeout    ns:ns
    waitid     idtype:number id:number options:number fields:fields
"""
_FIELDS = {
    "statx": (
        "mode nlink uid gid ino size blocks blksize atime_ns mtime_ns ctime_ns btime_ns dev rdev "
        "attributes mnt_id"
    ),
    "recvmsg": "control_length flags",
    "waitid": "pid status code",
}
_OPENING = ("openat", "openat2", "socket", "accept")


def _operations() -> dict[str, Operation]:
    operands: dict[str, list[tuple[str, Kind]]] = {}
    pairs: list[tuple[str, Kind]] = []
    for word in _OPERANDS.split():
        name, colon, kind = word.partition(":")
        if colon:
            pairs.append((name, Kind(kind)))
        else:
            pairs = operands[name] = []
    return {
        name: Operation(name, tuple(pairs), tuple(_FIELDS.get(name, "").split()), name in _OPENING)
        for name, pairs in operands.items()
    }


OPERATIONS = _operations()
