"""What a table does when the reference runs it on real files, and how few atoms it has."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

from threadlets._syslets.program import Syslet, syslet
from threadlets.atoms import (
    AT_REMOVEDIR,
    Flow,
    accept,
    add,
    address,
    break_if,
    buffer,
    close,
    connect,
    counter,
    ftruncate,
    growing,
    lease,
    loop,
    mkdirat,
    nop,
    openat,
    otherwise,
    pread,
    read,
    readv,
    recv,
    recvmsg,
    renameat,
    send,
    statx,
    stop_if,
    timeout,
    unlinkat,
    when,
    write,
    writev,
)
from threadlets.atoms import socket as make_socket

from .reference import Ending, run

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def _value(program: Any, *args: object) -> object:
    ending = run(program.table, args)
    assert ending.ok, os.strerror(ending.errno)
    return ending.value


def _ops(program: Any) -> list[str]:
    return [row.op for row in program.table.rows()]


@syslet
def copy(source, target, chunk_size=5):
    src = yield openat(source)
    dst = yield openat(target, _CREATE, 0o644)
    chunk = buffer(chunk_size)
    total = counter()
    with loop():
        n = yield read(src, chunk)
        break_if(n == 0)
        yield write(dst, chunk[:n])
        yield add(total, n)
    yield close(src)
    yield close(dst)
    return total


def test_a_loop_copies_a_file(tmp_path: Path) -> None:
    """The loop goes on until a read gives nothing, and counts what it copied."""
    (tmp_path / "a").write_bytes(b"seventeen bytes!!")
    assert 17 == _value(copy, tmp_path / "a", tmp_path / "b")
    assert b"seventeen bytes!!" == (tmp_path / "b").read_bytes()


def test_a_copy_has_one_atom_more_than_statements() -> None:
    """A condition is an atom of its own only where the atom that it tests is checked, too."""
    assert ["openat", "openat", "read", "add", "write", "add", "close", "close"] == _ops(copy)


def test_a_failure_names_the_atom(tmp_path: Path) -> None:
    """A checked atom that fails ends the program, and what was opened is closed."""
    n_open = len(os.listdir("/proc/self/fd"))
    assert Ending(False, None, errno.ENOENT, 0) == run(copy.table, (tmp_path / "a", "/"))
    (tmp_path / "a").touch()
    assert Ending(False, None, errno.EISDIR, 1) == run(copy.table, (tmp_path / "a", tmp_path))
    assert n_open == len(os.listdir("/proc/self/fd"))


def test_a_loop_that_ends_the_program_needs_no_test_atom(tmp_path: Path) -> None:
    """The flags of the read express the condition."""

    @syslet
    def contents(path):
        fd = yield openat(path)
        text = growing(100)
        with loop():
            n = yield read(fd, text)
            break_if(n == 0)
        return text

    (tmp_path / "a").write_bytes(b"some text")
    assert ["openat", "read"] == _ops(contents)
    assert b"some text" == _value(contents, tmp_path / "a")


def test_growing_memory_may_expect_a_size(tmp_path: Path) -> None:
    """The size is an operand of the memory, which a run allocates when it first reads into it."""

    @syslet
    def contents(path):
        fd = yield openat(path)
        info = yield statx(dir_fd=fd)
        text = growing(100, expected=info.size)
        yield read(fd, text)
        return text

    (tmp_path / "a").write_bytes(b"some text")
    [memory] = [row for row in contents.table.objects if row[0] == "growing"]
    assert 3 == len(memory)
    assert b"some text" == _value(contents, tmp_path / "a")


def test_stop_if_ends_with_its_value(tmp_path: Path) -> None:
    """The run succeeds, and atoms after the stop are not executed."""

    @syslet
    def first_byte(path):
        fd = yield openat(path)
        byte = buffer(1)
        n = yield read(fd, byte)
        stop_if(n == 0, "empty")
        yield unlinkat(path)
        return byte

    (tmp_path / "a").touch()
    (tmp_path / "b").write_bytes(b"xyz")
    assert ["openat", "read", "unlinkat"] == _ops(first_byte)
    assert "empty" == _value(first_byte, tmp_path / "a")
    assert b"x" == _value(first_byte, tmp_path / "b")
    assert ["a"] == os.listdir(tmp_path)


def test_stop_if_on_an_error_is_no_failure(tmp_path: Path) -> None:
    """A negative value that the program has tested ends it with the value of the stop."""

    @syslet
    def is_there(path):
        found = yield statx(path).unchecked()
        stop_if(found == -errno.ENOENT, False)
        stop_if(found < 0, found.value)
        return True

    (tmp_path / "a").touch()
    assert _value(is_there, tmp_path / "a") is True
    assert _value(is_there, tmp_path / "b") is False
    assert -errno.ENOTDIR == _value(is_there, tmp_path / "a" / "b")


def test_when_and_otherwise_take_one_way(tmp_path: Path) -> None:
    """One of the bodies is executed, then what follows both."""

    @syslet
    def describe(path):
        info = yield statx(path).unchecked()
        size = counter()
        with when(info == 0):
            yield add(size, info.size)
        with otherwise():
            fd = yield openat(path, _CREATE)
            yield write(fd, b"new")
            yield close(fd)
            yield add(size, -1)
        yield add(size, 100)
        return size

    assert 99 == _value(describe, tmp_path / "a")
    assert 103 == _value(describe, tmp_path / "a")


def test_loops_nest_and_branches_break(tmp_path: Path) -> None:
    """break_if leaves the innermost loop, also from inside a when."""

    @syslet
    def grid(fd, rows, columns):
        row, cells = counter(), counter()
        with loop():
            column = counter()
            yield add(column, column, -1)
            with loop():
                yield write(fd, b".")
                yield add(cells, 1)
                yield add(column, 1)
                with when(column >= columns):
                    break_if(row != 1)
                    yield write(fd, b"!")
                    break_if(column > columns)
            yield write(fd, b"\n")
            yield add(row, 1)
            break_if(row == rows)
        return cells, row

    with (tmp_path / "a").open("w+b") as file:
        assert (10, 3) == _value(grid, file, 3, 3)
        assert b"...\n...!.!\n...\n" == (tmp_path / "a").read_bytes()


def test_arithmetic_of_symbols_computes_when_the_program_runs() -> None:
    """Sums, differences, products and negation are atoms; the constants may be on either side."""

    @syslet
    def compute(a, b):
        yield nop()
        return a + b, a - b, 10 - a, a * 3, 3 * a, -a, a * b, a + 1 - b

    assert (9, 5, 3, 21, 21, -7, 14, 6) == _value(compute, 7, 2)


def test_integers_wrap_around() -> None:
    """A sum that is too large for 64 bits loses its high bits."""

    @syslet
    def successor(n):
        yield nop()
        return n + 1

    assert -(2**63) == _value(successor, 2**63 - 1)


def test_all_comparisons_mean_what_they_say() -> None:
    """Each comparison of two symbols gives what Python gives."""

    def compare(relation: str) -> Any:
        namespace: dict[str, Any] = {"nop": nop, "stop_if": stop_if}
        source = f"def f(a, b):\n yield nop()\n stop_if(a {relation} b, True)\n return False"
        exec(source, namespace)
        return syslet(namespace["f"])

    for relation in ("==", "!=", "<", "<=", ">", ">="):
        program = compare(relation)
        for a, b in ((1, 2), (2, 2), (3, 2)):
            assert eval(f"{a} {relation} {b}") is _value(program, a, b), relation


def test_slices_select_parts_of_memory(tmp_path: Path) -> None:
    """The ends of a slice may be computed; reads fill the part, and writes take it."""

    @syslet
    def shuffle(data, out):
        text = buffer(8)
        with loop():
            n = yield readv(data, [text[4:], text[:4]], 0)
            break_if(n == 8)
        half = n - 4
        yield writev(out, [text[half:n], text[:2], b"|"])
        return text, text[1:half], lease(text[half:])

    (tmp_path / "a").write_bytes(b"abcdefgh")
    with (tmp_path / "a").open("rb") as data, (tmp_path / "b").open("wb") as out:
        assert (b"efghabcd", b"fgh", b"abcd") == _value(shuffle, data, out)
    assert b"abcdef|" == (tmp_path / "b").read_bytes()


def test_parameters_are_what_their_uses_say() -> None:
    """The table has each parameter's kind, as its uses imply it, and its default."""

    @syslet
    def everything(path, fd, data, memory, count, wait_s=0.5, peer=("127.0.0.1", 1), limit=3):
        opened = yield openat(path)
        yield write(fd, data)
        yield read(opened, memory)
        yield ftruncate(opened, count + 1)
        yield timeout(wait_s)
        yield connect(fd, peer)
        stop_if(count == limit, memory)
        return data

    kinds = {name: (kind, default) for name, kind, _, default in everything.table.parameters}
    assert {
        "path": ("path", ...),
        "fd": ("fd", ...),
        "data": ("readable", ...),
        "memory": ("writable", ...),
        "count": ("int", ...),
        "wait_s": ("seconds", 0.5),
        "peer": ("address", ("127.0.0.1", 1)),
        "limit": ("int", 3),
    } == kinds


def test_a_returned_descriptor_stays_open(tmp_path: Path) -> None:
    """All other descriptors are closed, and none survives exec."""

    @syslet
    def open_two(path):
        first = yield openat(path, _CREATE)
        yield openat(path)
        return first

    n_open = len(os.listdir("/proc/self/fd"))
    fd = _value(open_two, tmp_path / "a")
    assert isinstance(fd, int)
    assert not os.get_inheritable(fd)
    assert n_open + 1 == len(os.listdir("/proc/self/fd"))
    os.close(fd)


def test_a_variable_takes_an_atoms_value_on_either_way(tmp_path: Path) -> None:
    """`into` brings values together that come from different branches."""

    @syslet
    def open_either(path, fallback):
        fd = counter()
        found = yield statx(path).unchecked()
        with when(found < 0):
            yield openat(fallback).into(fd)
        with otherwise():
            yield openat(path).into(fd)
        text = buffer(10)
        n = yield read(fd, text)
        return text[:n]

    (tmp_path / "b").write_bytes(b"b")
    assert b"b" == _value(open_either, tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_bytes(b"a")
    assert b"a" == _value(open_either, tmp_path / "a", tmp_path / "b")


def test_folders_and_names_change(tmp_path: Path) -> None:
    """Paths are relative to `dir_fd`, which may be a parameter."""

    @syslet
    def rename_into(folder):
        yield mkdirat("new", dir_fd=folder)
        yield renameat("a", "new/b", src_dir_fd=folder, dst_dir_fd=folder)
        removed = yield unlinkat("new", dir_fd=folder, flags=AT_REMOVEDIR).unchecked()
        return removed

    (tmp_path / "a").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    assert -errno.ENOTEMPTY == _value(rename_into, fd)
    assert (tmp_path / "new" / "b").exists()
    os.close(fd)


def test_sockets_talk() -> None:
    """One program can be both ends of a connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    @syslet
    def talk(listener, where):
        ours = yield make_socket(socket.AF_INET, socket.SOCK_STREAM)
        yield connect(ours, where)
        peer = address()
        theirs = yield accept(listener, address=peer)
        yield send(ours, b"ping")
        head, tail = buffer(2), buffer(10)
        message = yield recvmsg(theirs, [head, tail])
        yield send(theirs, b"pong")
        answer = buffer(4)
        yield recv(ours, answer)
        return head, tail[: message - 2], message.flags, answer, peer

    with listener:
        *received, peer = _value(talk, listener, listener.getsockname())  # type: ignore[misc]
    assert [b"pi", b"ng", 0, b"pong"] == received
    assert "127.0.0.1" == peer[0]


def test_traced_parts_compose_with_yield_from(tmp_path: Path) -> None:
    """Syslets can share a generator of atoms."""

    def size_of(path):
        info = yield statx(path)
        return info.size

    @syslet
    def sizes(a, b):
        first = yield from size_of(a)
        second = yield from size_of(b)
        return first + second

    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").write_bytes(b"12")
    assert 5 == _value(sizes, tmp_path / "a", tmp_path / "b")


def test_atoms_in_a_list_are_the_table(tmp_path: Path) -> None:
    """Successors, flags and variables are given; the value is that of the last atom."""
    path, n, n_reads = tmp_path / "a", counter(), counter()
    path.write_bytes(b"12345")
    fd = os.open(path, os.O_RDONLY)
    skip_at_end = Flow.STOP_ON_NON_POSITIVE | Flow.SKIP_TO_NEXT_ON_STOP
    program = Syslet.from_atoms(
        [
            add(n_reads, 1),
            read(fd, buffer(2)).into(n).with_flags(skip_at_end).then(0),
            pread(fd, buffer(9), n_reads).then(None),
        ],
        name="count",
    )
    assert Ending(True, 1, 0, 2) == run(program.table)
    os.close(fd)


def test_explain_shows_a_line_for_each_atom() -> None:
    """explain() names operands as the source does."""
    lines = copy.explain().splitlines()
    assert "copy(source: path, target: path, chunk_size: int)" in lines[0]
    assert len(copy.table.atoms) == len(lines) - 1
    assert ["2", "read", "fd=src", "buffer=chunk", "→"] == lines[3].split()[:5]
    assert "SKIP_TO_NEXT_ON_STOP" in lines[4]
    assert "end: total" in lines[8]
