"""Reading with a size in place of memory: the value is the bytes, as os.read gives them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadlets import BufferPool, CompletionRing, Lease, Syslet, engine, sweep, syslet
from threadlets.atoms import (
    add,
    assign,
    break_if,
    close,
    counter,
    getdents,
    lease,
    loop,
    openat,
    otherwise,
    pread,
    pwrite,
    read,
    recv,
    send,
    sendmsg,
    stop_if,
    when,
    write,
    writev,
)
from threadlets.testing import use_engine
from waiting import eventually

from .harness import Carry, Peers, wait_for_quiet, within_deadline

Pair = Callable[..., tuple[socket.socket, socket.socket]]


@syslet
def _head(path):
    fd = yield openat(path)
    data = yield read(fd, 10)
    yield close(fd)
    return data


@syslet
def _read(fd, size: int):
    data = yield read(fd, size)
    return data


@syslet
def _read_twice(fd, size: int):
    first = yield read(fd, size)
    second = yield read(fd, size)
    return first, second


@syslet
def _read_at(fd, size: int, offset):
    data = yield pread(fd, size, offset)
    return data, data.length


@syslet
def _receive(fd, size: int, flags):
    data = yield recv(fd, size, flags)
    return data


@syslet
def _copy(source, target, size: int):
    src = yield openat(source)
    dst = yield openat(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    total = counter()
    with loop():
        data = yield read(src, size)
        break_if(data == b"")
        yield write(dst, data)
        yield add(total, data.length)
    yield close(src)
    yield close(dst)
    return total


@syslet
def _echo(fd):
    with loop():
        data = yield recv(fd, 100)
        stop_if(data == b"", data)
        yield send(fd, data)


def _slices(start: int | None, stop: int | None) -> Syslet[...]:
    @syslet
    def program(fd):
        data = yield pread(fd, 20, 0)
        return data[start:stop], data

    return program


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Callable[[bytes], int]]:
    """Return a function that makes a file with a content, and returns its descriptor."""
    fds = []

    def make(content: bytes) -> int:
        path = tmp_path / str(len(fds))
        path.write_bytes(content)
        fds.append(os.open(path, os.O_RDWR))
        return fds[-1]

    yield make
    for fd in fds:
        os.close(fd)


_CONTENTS = st.binary(max_size=300)
_SIZES = st.integers(0, 400)


@given(content=_CONTENTS, size=_SIZES)
def test_reads_give_what_os_read_gives(
    carry: Carry, file: Callable[[bytes], int], content: bytes, size: int
) -> None:
    """Two reads of a size give the bytes, fewer at the end, and none after it."""
    fd, same = file(content), file(content)
    expected = os.read(same, size), os.read(same, size)
    found = carry(_read_twice, fd, size).unwrap()
    assert expected == found
    assert all(type(part) is bytes for part in found)


@given(content=_CONTENTS, size=_SIZES, offset=st.integers(0, 400))
def test_reads_at_an_offset_give_what_os_pread_gives(
    carry: Carry, file: Callable[[bytes], int], content: bytes, size: int, offset: int
) -> None:
    """The bytes are those at the offset, and their length is their number."""
    fd = file(content)
    expected = os.pread(fd, size, offset)
    assert (expected, len(expected)) == carry(_read_at, fd, size, offset).unwrap()


@given(content=st.binary(max_size=30), start=st.integers(0, 25), length=st.integers(0, 25))
def test_a_slice_is_that_of_bytes(
    file: Callable[[bytes], int], content: bytes, start: int, length: int
) -> None:
    """A slice of what was read ends where it ends, as that of a bytes object."""
    fd = file(content)
    data = os.pread(fd, 20, 0)
    for ends in ((start, start + length), (start, None), (None, start)):
        assert (data[slice(*ends)], data) == _slices(*ends).run(fd).unwrap()


@given(content=st.binary(max_size=3000), size=st.integers(1, 900))
def test_a_loop_writes_exactly_what_it_reads(
    carry: Carry, tmp_path: Path, content: bytes, size: int
) -> None:
    """Each round reads into the memory of the round before, and the last, short one is short."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    assert len(content) == carry(_copy, source, target, size).unwrap()
    assert content == target.read_bytes()


@given(content=st.binary(max_size=3000), first=st.integers(0, 2000), change=st.integers(-200, 1500))
def test_a_size_may_change_from_round_to_round(
    engine_kind: str, file: Callable[[bytes], int], content: bytes, first: int, change: int
) -> None:
    """A read asks for the size of its own round, larger or smaller; a negative one is EINVAL."""

    @syslet
    def program(src, dst):
        size = counter()
        n_reads = counter()
        yield assign(size, first)
        with loop():
            data = yield read(src, size)
            yield write(dst, data)
            yield add(size, change)
            yield add(n_reads, 1)
            break_if(n_reads == 4)

    source, same, target = file(content), file(content), file(b"")
    sizes = [first + change * round_ for round_ in range(4)]
    valid = [size for size in sizes if size >= 0]
    result = within_deadline(program(source, target))
    assert (len(valid) == 4, 0 if len(valid) == 4 else errno.EINVAL) == (result.ok, result.errno)
    assert b"".join(os.read(same, size) for size in valid) == os.pread(target, 9000, 0)


@given(
    seed=st.integers(0, 2**64 - 1),
    error_rate=st.sampled_from([0.0, 0.05, 0.3]),
    short_rate=st.sampled_from([0.0, 0.5, 1.0]),
    size=st.integers(1, 5000),
)
def test_copies_fail_or_are_whole_whatever_is_injected(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    error_rate: float,
    short_rate: float,
    size: int,
) -> None:
    """With errors and short transfers a target is a beginning of its source, or all of it."""
    folder = tmp_path_factory.mktemp("copies")
    content = bytes(i % 251 for i in range(20_000))
    (folder / "source").write_bytes(content)
    inputs = [(folder / "source", folder / f"target{i}", size) for i in range(3)]
    with use_engine("sim", seed=seed, error_rate=error_rate, short_rate=short_rate):
        for result in sweep(_copy, inputs):
            target = result.input[1]
            copied = target.read_bytes() if target.exists() else b""
            assert content[: len(copied)] == copied
            if result.ok:
                assert (len(content), content) == (result.value, copied)
            else:
                assert error_rate > 0
        wait_for_quiet()
    assert 0 == BufferPool.default().in_use


def test_the_end_is_empty_bytes(carry: Carry, file: Callable[[bytes], int]) -> None:
    """At the end of a file, and for a size of zero, the value is b""."""
    assert b"" == carry(_read, file(b""), 10).unwrap()
    assert b"" == carry(_read, file(b"content"), 0).unwrap()
    assert b"" == carry(_head, "/dev/null").unwrap()


def test_received_bytes_go_back(carry: Carry, pair: Pair, peers: Peers) -> None:
    """What recv has received is what send sends, until the stream's end, which is b""."""
    one, other = pair()

    def talk() -> None:
        for message in (b"one", b"a longer one", b"1"):
            other.sendall(message)
            assert message == other.recv(len(message), socket.MSG_WAITALL)
        other.shutdown(socket.SHUT_WR)

    peers.call(talk)
    assert b"" == carry(_echo, one).unwrap()
    peers.join()


def test_a_read_that_waits_gives_what_comes(carry: Carry, pipe: Any, peers: Peers) -> None:
    """A read of an empty pipe waits, and gives as much as there is then, not the whole size."""
    reader, writer = pipe
    peers.call(os.write, writer, b"late")
    assert b"late" == carry(_read, reader, 4096).unwrap()


def test_waiting_for_all_gives_all(carry: Carry, pair: Pair, peers: Peers) -> None:
    """With MSG_WAITALL the bytes are as many as the size, unless the stream ends before."""
    one, other = pair()

    def talk() -> None:
        for _ in range(3):
            other.sendall(b"12")
        other.shutdown(socket.SHUT_WR)

    peers.call(talk)
    assert b"1212" == carry(_receive, one, 4, socket.MSG_WAITALL).unwrap()
    assert b"12" == carry(_receive, one, 4, socket.MSG_WAITALL).unwrap()


def test_emptiness_decides_where_the_flow_goes(file: Callable[[bytes], int]) -> None:
    """`data == b""`, `data != b""` and `data` alone are conditions."""

    @syslet
    def program(fd):
        is_empty = counter()
        is_not = counter()
        is_there = counter()
        data = yield pread(fd, 10, 0)
        with when(data == b""):
            yield add(is_empty, 1)
        with when(data != b""):
            yield add(is_not, 1)
        with when(data):
            yield add(is_there, 1)
        with otherwise():
            yield add(is_there, 10)
        return is_empty, is_not, is_there

    assert (1, 0, 10) == program.run(file(b"")).unwrap()
    assert (0, 1, 1) == program.run(file(b"x")).unwrap()


def test_bytes_go_wherever_memory_is_read(pair: Pair, file: Callable[[bytes], int]) -> None:
    """Writes of every kind take what was read, whole and in parts, beside other memory."""

    @syslet
    def program(src, dst, sock):
        one = yield pread(src, 4, 0)
        two = yield pread(src, 100, 4)
        yield writev(dst, [one, b"-", two])
        yield write(dst, two[1:3])
        yield pwrite(dst, one[:2], 1)
        yield sendmsg(sock, [two, one])
        yield send(sock, one)
        return one, two

    source, target = file(b"abcdefgh"), file(b"")
    sock, other = pair()
    assert (b"abcd", b"efgh") == program.run(source, target, sock).unwrap()
    assert b"aabd-efghfg" == os.pread(target, 100, 0)
    assert b"efghabcdabcd" == other.recv(100)


def test_an_atom_yielded_twice_reads_two_pieces(file: Callable[[bytes], int]) -> None:
    """An atom is a value: each `yield` of it has bytes of its own."""

    @syslet
    def program(fd):
        atom = read(fd, 3)
        one = yield atom
        two = yield atom
        parts = []
        for _ in range(3):
            parts.append((yield read(fd, 2)))
        return (one, two, *parts)

    assert (b"abc", b"def", b"gh", b"ij", b"k") == program.run(file(b"abcdefghijk")).unwrap()


def test_a_lease_of_what_was_read_is_its_memory(file: Callable[[bytes], int]) -> None:
    """A lease has the length of what was read, also where that is nothing."""

    @syslet
    def whole(fd, size: int):
        data = yield pread(fd, size, 0).unchecked()
        return lease(data)

    @syslet
    def part(fd, size: int):
        data = yield pread(fd, size, 0)
        return lease(data[3:5]), lease(data[50:])

    fd = file(b"content")
    for size, expected in ((100, b"content"), (3, b"con"), (0, b""), (-1, b"")):
        with whole.run(fd, size).unwrap() as leased:
            assert isinstance(leased, Lease)
            assert (len(expected), expected) == (len(leased), bytes(leased))
    three, nothing = part.run(fd, 100).unwrap()
    assert (b"te", b"") == (bytes(three), bytes(nothing))


def test_a_list_of_atoms_returns_the_bytes_of_its_last(file: Callable[[bytes], int]) -> None:
    """Without a function to trace, the value of the last atom is its bytes, or its failure."""
    fd = file(b"content")
    assert b"tent" == Syslet.from_atoms([pread(fd, 3, 0), pread(fd, 9, 3)]).run().unwrap()
    failing = Syslet.from_atoms([read(-100, 9).unchecked()])
    assert errno.EBADF == failing.run().errno


def test_entries_of_a_folder_are_bytes(tmp_path: Path) -> None:
    """Reading a folder with a size gives the kernel's entries."""
    (tmp_path / "the-name").touch()

    @syslet
    def program(path):
        fd = yield openat(path, os.O_RDONLY | os.O_DIRECTORY)
        entries = yield getdents(fd, 4096)
        return entries

    assert b"the-name\0" in program.run(tmp_path).unwrap()


def test_a_failure_ends_the_program(carry: Carry, file: Callable[[bytes], int]) -> None:
    """An error is the result's, as of a read into memory."""
    for path, expected in (("/missing", (errno.ENOENT, 0)), ("/", (errno.EISDIR, 1))):
        result = carry(_head, path)
        assert expected == (result.errno, result.atom)
    assert errno.EINVAL == carry(_read, file(b"x"), -1).errno


def test_an_unchecked_failure_leaves_nothing(carry: Carry, file: Callable[[bytes], int]) -> None:
    """After a read that failed there are no bytes, those of an earlier round neither."""

    @syslet
    def program(fd, dst):
        offset = counter()
        with loop():
            data = yield pread(fd, 4, offset).unchecked()
            yield write(dst, data)
            break_if(data.length < 0)
            yield add(offset, -1)
        return data, data.length

    source, target = file(b"content"), file(b"")
    assert (b"", -errno.EINVAL) == carry(program, source, target).unwrap()
    assert b"cont" == os.pread(target, 100, 0)


def test_no_byte_of_another_run_is_seen(file: Callable[[bytes], int]) -> None:
    """Memory that comes back from an earlier run shows only what was read into it."""
    secret, short = file(b"secret" * 100), file(b"x")
    _read.run(secret, 600)

    @syslet
    def program(fd):
        data = yield read(fd, 600)
        return data, data[:600], data[1:]

    assert (b"x", b"x", b"") == program.run(short).unwrap()


def test_memory_is_bounded_by_the_pool(engine_kind: str, file: Callable[[bytes], int]) -> None:
    """A size beyond the pool's bound fails with ENOBUFS, and a loop takes memory once."""

    @syslet
    def in_a_loop(fd, size: int):
        n_rounds = counter()
        with loop():
            data = yield pread(fd, size, 0)
            yield add(n_rounds, 1)
            break_if(n_rounds == 50)
        return data

    pool = BufferPool(4096)
    fd = file(bytes(5000))
    inputs = [(fd, 4096), (fd, 4097), (fd, 1)]
    results = list(sweep(in_a_loop, inputs, depth=1, pool=pool))
    assert [0, errno.ENOBUFS, 0] == [result.errno for result in results]
    assert [bytes(4096), None, b"\0"] == [result.value for result in results]
    del results
    assert 0 == pool.in_use


def test_a_larger_size_gives_the_smaller_memory_back_first(file: Callable[[bytes], int]) -> None:
    """A size that grows from round to round needs no more memory than the largest round."""

    @syslet
    def program(fd):
        size = counter(1024)
        with loop():
            data = yield pread(fd, size, 0)
            yield add(size, 1024)
            break_if(size > 4096)
        return data

    (result,) = sweep(program, [file(bytes(5000))], pool=BufferPool(4096))
    assert bytes(4096) == result.unwrap()


def test_a_cancelled_read_gives_its_memory_back(engine_kind: str, pair: Pair) -> None:
    """Cancelling a task, and closing a ring, end reads that wait; no memory stays lent."""
    one, other = pair()

    async def main() -> None:
        task = asyncio.create_task(_receive(one, 65536, 0))
        await eventually(lambda: engine().in_flight)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    within_deadline(main())
    wait_for_quiet()
    ring = CompletionRing()
    assert ring.submit(_receive, one, 65536, 0) is None
    del ring
    wait_for_quiet()
    # Neither of them has taken anything.
    other.send(b"for another")
    assert b"for another" == within_deadline(_receive(one, 65536, 0)).unwrap()


def test_a_sweep_reads_a_thousand_files(engine_kind: str, tmp_path: Path) -> None:
    """Results are those of the files, in their order, whatever their sizes."""
    paths = [tmp_path / str(number) for number in range(1000)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number * (number % 3))
    with sweep(_head, paths, depth=64) as results:
        found = [result.unwrap() for result in results]
    assert [b"%d" % number * (number % 3) for number in range(1000)] == found


def test_a_parameter_declared_an_int_is_a_size(file: Callable[[bytes], int]) -> None:
    """By its annotation or its default; any other parameter is memory to read into."""

    @syslet
    def by_default(fd, size=3):
        data = yield pread(fd, size, 0)
        return data

    @syslet
    def memory(fd, data):
        n = yield pread(fd, data, 0)
        return n

    fd, given_memory = file(b"content"), bytearray(4)
    assert (b"con", b"cont") == (by_default.run(fd).unwrap(), by_default.run(fd, 4).unwrap())
    assert (4, b"cont") == (memory.run(fd, given_memory).unwrap(), given_memory)
    with pytest.raises(TypeError, match=r"'data': expected writable memory .*annotate"):
        memory.run(fd, 10)


def test_the_table_shows_what_is_read() -> None:
    """`explain` names the bytes, and their length where it is used."""
    text = _copy.explain()
    assert "read    fd=src buffer=data" in text
    assert "→ data.length" in text
    assert "write   fd=dst data=data" in text


def test_methods_of_bytes_are_for_results() -> None:
    """What bytes have and symbols do not is an AttributeError that says where it belongs."""
    with pytest.raises(
        AttributeError, match=r"traced; return them, and call `result\.value\.decode`"
    ):

        @syslet
        def decodes(fd):
            data = yield read(fd, 9)
            return data.decode()

    with pytest.raises(AttributeError, match=r"no attribute 'nothing'"):

        @syslet
        def nothing(fd):
            data = yield read(fd, 9)
            return data.nothing
