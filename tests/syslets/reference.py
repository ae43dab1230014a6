"""An interpreter of tables in plain Python: it follows the flow rules literally, atom by atom.

Tests compare the native executors with it. It blocks, and supports no ancillary data.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from threadlets._syslets.operations import OPERATIONS, STOPS, Flow
from threadlets._syslets.table import ABSENT, Row, Table

from . import system_calls


class Ending(NamedTuple):
    """How a run ended, and with which value."""

    ok: bool
    value: object
    errno: int
    atom: int


class EndlessRun(Exception):
    """A run made more steps than it was allowed to."""


def run(table: Table, args: Sequence[object] = (), *, steps_max: int = 100_000) -> Ending:
    """Run a program to its end, and close the descriptors that it leaves open."""
    machine = _Machine(table, args)
    try:
        return machine.run(steps_max)
    finally:
        for fd in machine.opened:
            os.close(fd)


class _Machine:
    def __init__(self, table: Table, args: Sequence[object]) -> None:
        self.opened: set[int] = set()
        self._table = table
        self._rows = table.rows()
        self._slots = list(table.slots)
        self._memory: dict[int, Any] = {}
        for index, (name, kind, target, default) in enumerate(table.parameters):
            value = args[index] if index < len(args) else default
            assert value is not ..., f"no value for {name}"
            self._bind(kind, target, value)

    def run(self, steps_max: int) -> Ending:
        index = 0
        for _ in range(steps_max):
            row = self._rows[index]
            value = self._execute(row)
            if row.result != ABSENT:
                self._slots[row.result] = value
            is_stopped = _stops(row.flags, value)
            if not is_stopped:
                following = row.next
            elif row.flags & Flow.SKIP_TO_NEXT_ON_STOP:
                following = index + 1 if index + 1 < len(self._rows) else ABSENT
            else:
                following = ABSENT
            if following == ABSENT:
                return self._ending(index, row, value, is_stopped)
            index = following
        raise EndlessRun(self._table.name)

    def _bytes_of(self, row: Row) -> bytes | None:
        """Return the bytes that an atom has read, if they are its value."""
        if row.op not in ("read", "pread", "recv", "getdents"):
            return None
        memory = row.operands[1]
        if self._table.objects[memory][0] != "read_bytes":
            return None
        return bytes(self._view(memory, ABSENT, ABSENT))

    def _ending(self, index: int, row: Row, value: int, is_stopped: bool) -> Ending:
        outcome = self._table.outcomes[row.outcome]
        ended_by_stop = is_stopped and not row.flags & Flow.SKIP_TO_NEXT_ON_STOP
        if value < 0 and OPERATIONS[row.op].is_io and (ended_by_stop or outcome == ("atom",)):
            return Ending(False, None, -value, index)
        if outcome == ("atom",) and (content := self._bytes_of(row)) is not None:
            return Ending(True, content, 0, index)
        return Ending(True, self._outcome(outcome, value), 0, index)

    def _outcome(self, outcome: tuple[Any, ...], value: int) -> object:
        tag, *rest = outcome
        if tag == "atom":
            return value
        if tag == "none":
            return None
        if tag == "const":
            return rest[0]
        if tag == "tuple":
            return tuple(self._outcome(part, value) for part in rest[0])
        if tag in ("bytes", "lease"):
            return bytes(self._view(*rest))
        if tag == "address":
            return self._object(rest[0])
        if tag == "stat":
            return tuple(self._slots[rest[0] : rest[0] + 16])
        if tag == "fd":
            self.opened.discard(self._slots[rest[0]])
        return self._slots[rest[0]]

    def _bind(self, kind: str, target: int, value: Any) -> None:
        if kind == "int":
            self._slots[target] = value
        elif kind == "fd":
            self._slots[target] = value if isinstance(value, int) else value.fileno()
        elif kind == "seconds":
            self._slots[target] = round(value * 1_000_000_000)
        elif kind == "path":
            self._memory[target] = os.fsencode(value)
        elif kind == "address":
            self._memory[target] = value
        else:
            self._memory[target] = memoryview(value).cast("B")

    def _object(self, index: int) -> Any:
        """Return the content of an object, making it at its first use."""
        if index not in self._memory:
            match self._table.objects[index]:
                case ("buffer", int(size)):
                    self._memory[index] = bytearray(self._slots[size])
                case ("read_bytes", *_):
                    self._memory[index] = bytearray()
                case ("growing", *_):
                    self._memory[index] = bytearray()
                case (_, content):
                    self._memory[index] = content
        return self._memory[index]

    def _view(self, index: int, start: int, length: int) -> memoryview:
        """Return a part of memory.

        Raises:
            OSError: EFAULT, if the part is not within the memory.
        """
        if self._table.objects[index][0] == "read_bytes":
            return self._view_of_bytes(index, start, length)
        view = memoryview(self._object(index))
        first = 0 if start == ABSENT else self._slots[start]
        stop = len(view) if length == ABSENT else first + self._slots[length]
        if not 0 <= first <= stop <= len(view):
            raise OSError(errno.EFAULT, "a span outside of its memory")
        return view[first:stop]

    def _view_of_bytes(self, index: int, start: int, length: int) -> memoryview:
        """Return a part of what was read, as a slice of bytes is taken."""
        n_read = self._slots[self._table.objects[index][2]]  # type: ignore[index]
        view = memoryview(self._object(index))[: max(0, n_read)]
        first = 0 if start == ABSENT else self._slots[start]
        return view[first:] if length == ABSENT else view[first : first + self._slots[length]]

    def _views(self, vector: int) -> list[memoryview]:
        _, spans = self._table.objects[vector]
        return [self._view(*span) for span in spans]  # type: ignore[attr-defined]

    def _execute(self, row: Row) -> int:
        try:
            value: int = getattr(self, f"_{row.op}")(*row.operands)
        except OSError as error:
            return -(error.errno or errno.EIO)
        if OPERATIONS[row.op].opens and value >= 0:
            self.opened.add(value)
        return value

    def _values(self, *slots: int) -> list[int]:
        return [self._slots[slot] for slot in slots]

    def _or_position(self, slot: int) -> int | None:
        return None if slot == ABSENT or self._slots[slot] == -1 else self._slots[slot]

    def _store(self, first: int, values: Sequence[int]) -> None:
        self._slots[first : first + len(values)] = values

    # One method for each operation follows; its parameters are the operands in the table.

    def _nop(self) -> int:
        return 0

    def _add(self, base: int, amount: int, factor: int) -> int:
        total = self._slots[base] + self._slots[amount] * self._slots[factor]
        return (total + 2**63) % 2**64 - 2**63

    def _openat(self, dir_fd: int, path: int, flags: int, mode: int) -> int:
        return system_calls.call(
            "openat", self._slots[dir_fd], self._object(path), *self._values(flags, mode)
        )

    def _openat2(self, dir_fd: int, path: int, flags: int, mode: int, resolve: int) -> int:
        how = self._values(flags, mode, resolve)
        return system_calls.openat2(self._slots[dir_fd], self._object(path), *how)

    def _statx(self, dir_fd: int, path: int, flags: int, mask: int, fields: int) -> int:
        asked = self._values(flags, mask)
        value, status = system_calls.statx(self._slots[dir_fd], self._object(path), *asked)
        self._store(fields, status)
        return value

    def _read(self, fd: int, *span: int) -> int:
        return self._read_into([span], lambda views: os.readv(self._slots[fd], views))

    def _pread(self, fd: int, memory: int, start: int, length: int, offset: int) -> int:
        # preadv is not used: an offset of -1 means the file's position to it.
        def read(views: list[memoryview]) -> int:
            content = os.pread(self._slots[fd], len(views[0]), self._slots[offset])
            views[0][: len(content)] = content
            return len(content)

        return self._read_into([(memory, start, length)], read)

    def _readv(self, fd: int, vector: int, offset: int) -> int:
        _, spans = self._table.objects[vector]
        at = self._or_position(offset)
        if at is None:
            return self._read_into(spans, lambda views: os.readv(self._slots[fd], views))
        return self._read_into(spans, lambda views: os.preadv(self._slots[fd], views, at))

    def _getdents(self, fd: int, *span: int) -> int:
        def read(views: list[memoryview]) -> int:
            raw = (ctypes.c_char * len(views[0])).from_buffer(views[0])
            return _or_error(system_calls.call("getdents64", self._slots[fd], raw, len(views[0])))

        return self._read_into([span], read)

    def _recv(self, fd: int, memory: int, start: int, length: int, flags: int) -> int:
        def receive(views: list[memoryview]) -> int:
            with _Socket(self._slots[fd]) as sock:
                return sock.recv_into(views[0], 0, self._slots[flags])

        return self._read_into([(memory, start, length)], receive)

    def _read_into(self, spans: Any, read: Any) -> int:
        """Read into spans; append to growing memory, up to its limit."""
        views, grown = [], []
        for span in spans:
            row = self._table.objects[span[0]]
            if row[0] == "growing":
                # When no room is left, reading one byte tells the end of the file from more to come.
                room = bytearray(max(1, self._slots[row[1]] - len(self._object(span[0]))))
                views.append(memoryview(room))
                grown.append((span[0], room))
            elif row[0] == "read_bytes":
                size = self._slots[row[1]]
                if size < 0:
                    raise OSError(errno.EINVAL, "a negative size")
                self._memory[span[0]] = bytearray(size)
                views.append(memoryview(self._memory[span[0]]))
                grown.append((span[0], None))
            else:
                views.append(self._view(*span))
                grown.append((span[0], None))
        n_read = left = read(views)
        for view, (index, room) in zip(views, grown, strict=True):
            n_here = min(left, len(view))
            left -= n_here
            if room is not None and n_here > self._slots[self._table.objects[index][1]] - len(
                self._object(index)
            ):
                raise OSError(errno.ENOBUFS, "growing memory is full")
            if room is not None:
                self._memory[index] = self._object(index) + room[:n_here]
        return int(n_read)

    def _write(self, fd: int, *span: int) -> int:
        return os.write(self._slots[fd], self._view(*span))

    def _pwrite(self, fd: int, memory: int, start: int, length: int, offset: int) -> int:
        view = self._view(memory, start, length)
        return os.pwrite(self._slots[fd], view, self._slots[offset])

    def _writev(self, fd: int, vector: int, offset: int) -> int:
        views, at = self._views(vector), self._or_position(offset)
        if at is None:
            return os.writev(self._slots[fd], views)
        return os.pwritev(self._slots[fd], views, at)

    def _send(self, fd: int, memory: int, start: int, length: int, flags: int) -> int:
        with _Socket(self._slots[fd]) as sock:
            return sock.send(self._view(memory, start, length), self._slots[flags])

    def _fsync(self, fd: int) -> int:
        return system_calls.call("fsync", self._slots[fd])

    def _fdatasync(self, fd: int) -> int:
        return system_calls.call("fdatasync", self._slots[fd])

    def _fallocate(self, *slots: int) -> int:
        return system_calls.call("fallocate", *self._values(*slots))

    def _ftruncate(self, fd: int, length: int) -> int:
        return system_calls.call("ftruncate", *self._values(fd, length))

    def _close(self, fd: int) -> int:
        self.opened.discard(self._slots[fd])
        return system_calls.call("close", self._slots[fd])

    def _unlinkat(self, dir_fd: int, path: int, flags: int) -> int:
        return system_calls.call(
            "unlinkat", self._slots[dir_fd], self._object(path), self._slots[flags]
        )

    def _renameat(self, old_dir: int, old: int, new_dir: int, new: int, flags: int) -> int:
        return self._two_paths("renameat2", old_dir, old, new_dir, new, flags)

    def _linkat(self, old_dir: int, old: int, new_dir: int, new: int, flags: int) -> int:
        return self._two_paths("linkat", old_dir, old, new_dir, new, flags)

    def _two_paths(
        self, name: str, old_dir: int, old: int, new_dir: int, new: int, flags: int
    ) -> int:
        old_place = (self._slots[old_dir], self._object(old))
        new_place = (self._slots[new_dir], self._object(new))
        return system_calls.call(name, *old_place, *new_place, self._slots[flags])

    def _mkdirat(self, dir_fd: int, path: int, mode: int) -> int:
        return system_calls.call(
            "mkdirat", self._slots[dir_fd], self._object(path), self._slots[mode]
        )

    def _symlinkat(self, target: int, dir_fd: int, path: int) -> int:
        return system_calls.call(
            "symlinkat", self._object(target), self._slots[dir_fd], self._object(path)
        )

    def _splice(
        self, in_fd: int, in_offset: int, out_fd: int, out_offset: int, length: int, flags: int
    ) -> int:
        src, dst, count = self._values(in_fd, out_fd, length)
        offsets = self._or_position(in_offset), self._or_position(out_offset)
        return os.splice(src, dst, count, *offsets, self._slots[flags])

    def _sendfile(self, out_fd: int, in_fd: int, offset: int, count: int) -> int:
        out, src, size = self._values(out_fd, in_fd, count)
        return os.sendfile(out, src, self._or_position(offset), size)

    def _socket(self, domain: int, kind: int, protocol: int) -> int:
        return system_calls.call("socket", *self._values(domain, kind, protocol))

    def _connect(self, fd: int, address: int) -> int:
        with _Socket(self._slots[fd]) as sock:
            sock.connect(self._object(address))
        return 0

    def _accept(self, fd: int, flags: int, address: int) -> int:
        with _Socket(self._slots[fd]) as sock:
            accepted, peer = sock.accept()
        if address != ABSENT:
            self._memory[address] = peer
        if self._slots[flags] & socket.SOCK_NONBLOCK:
            accepted.setblocking(False)
        return accepted.detach()

    def _shutdown(self, fd: int, how: int) -> int:
        return system_calls.call("shutdown", *self._values(fd, how))

    def _recvmsg(
        self, fd: int, vector: int, flags: int, control: int, address: int, fields: int
    ) -> int:
        assert ABSENT == control, "the reference supports no ancillary data"
        received: list[Any] = []

        def receive(views: list[memoryview]) -> int:
            with _Socket(self._slots[fd]) as sock:
                received.extend(sock.recvmsg_into(views, 0, self._slots[flags]))
            return int(received[0])

        _, spans = self._table.objects[vector]
        value = self._read_into(spans, receive)
        self._store(fields, [0, received[2]])
        if address != ABSENT:
            self._memory[address] = received[3]
        return value

    def _sendmsg(self, fd: int, vector: int, flags: int, control: int, address: int) -> int:
        assert ABSENT == control, "the reference supports no ancillary data"
        peer = None if address == ABSENT else self._object(address)
        with _Socket(self._slots[fd]) as sock:
            return sock.sendmsg(self._views(vector), (), self._slots[flags], peer)

    def _poll(self, fd: int, events: int) -> int:
        poll = select.poll()
        poll.register(*self._values(fd, events))
        return poll.poll()[0][1]

    def _timeout(self, ns: int) -> int:
        time.sleep(self._slots[ns] / 1_000_000_000)
        return 0

    def _waitid(self, idtype: int, id_: int, options: int, fields: int) -> int:
        child = os.waitid(*self._values(idtype, id_, options))
        if child is None:
            self._store(fields, [0, 0, 0])
        else:
            self._store(fields, [child.si_pid, child.si_status, child.si_code])
        return 0


class _Socket:
    """A Python socket for a descriptor that it does not close."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> socket.socket:
        self._sock = socket.socket(fileno=self._fd)
        return self._sock

    def __exit__(self, *_exception: object) -> None:
        self._sock.detach()


def _stops(flags: int, value: int) -> bool:
    holding = Flow(0)
    holding |= Flow.STOP_ON_ZERO if value == 0 else Flow.STOP_ON_NONZERO
    if value < 0:
        holding |= Flow.STOP_ON_NEGATIVE
    if value <= 0:
        holding |= Flow.STOP_ON_NON_POSITIVE
    return bool(flags & STOPS & holding)


def _or_error(value: int) -> int:
    if value < 0:
        raise OSError(-value, os.strerror(-value))
    return value
