"""Conformance: atoms that move bytes between files, pipes and memory, in every way of running."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from threadlets import syslet
from threadlets.atoms import (
    add,
    break_if,
    buffer,
    counter,
    growing,
    lease,
    loop,
    openat,
    pread,
    pwrite,
    read,
    readv,
    sendfile,
    splice,
    write,
    writev,
)

from .harness import Carry, Peers

FdOf = Callable[..., int]
Pair = Callable[..., Any]

_PIECE = 65536


@syslet
def _read(fd):
    data = buffer(100)
    n = yield read(fd, data)
    return data[:n]


@syslet
def _read_all(path):
    fd = yield openat(path)
    content = growing(10_000_000)
    with loop():
        n = yield read(fd, content)
        break_if(n == 0)
    return content


@syslet
def _pread(fd, offset):
    data = buffer(4)
    n = yield pread(fd, data, offset)
    return data[:n]


@syslet
def _readv(fd):
    first, second = buffer(3), buffer(3)
    n = yield readv(fd, [first, second[1:2]])
    return n, first, second


@syslet
def _readv_at(fd, offset):
    first, second = buffer(3), buffer(3)
    n = yield readv(fd, [first, second], offset)
    return n, first, second


@syslet
def _write(fd, data):
    n = yield write(fd, data)
    return n


@syslet
def _pwrite(fd, data, offset):
    n = yield pwrite(fd, data, offset)
    return n


@syslet
def _writev(fd, first, second):
    n = yield writev(fd, [first, second, b"!"])
    return n


@syslet
def _writev_at(fd, first, second, offset):
    n = yield writev(fd, [first, second], offset)
    return n


@syslet
def _splice(src, dst, count):
    n = yield splice(src, dst, count)
    return n


@syslet
def _splice_from(src, dst, count, offset):
    n = yield splice(src, dst, count, offset)
    return n


@syslet
def _splice_to(src, dst, count, offset):
    n = yield splice(src, dst, count, offset_dst=offset)
    return n


@syslet
def _send_file(dst, src, count):
    n = yield sendfile(dst, src, None, count)
    return n


@syslet
def _send_file_from(dst, src, offset, count):
    n = yield sendfile(dst, src, offset, count)
    return n


@syslet
def _copy(source, target):
    src = yield openat(source)
    dst = yield openat(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    chunk = buffer(_PIECE)
    total = counter()
    with loop():
        n = yield read(src, chunk)
        break_if(n == 0)
        yield write(dst, chunk[:n])
        yield add(total, n)
    return total


def _drain(fd: int, into: bytearray, size: int = 4096) -> None:
    """Read a descriptor slowly, in little pieces, to its end."""
    while piece := os.read(fd, size):
        into += piece


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


def test_read_goes_on_at_the_files_position(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """read begins at the position, and gives 0 bytes at the end."""
    fd = fd_of(file)
    os.lseek(fd, 4, os.SEEK_SET)
    assert b"456789" == carry(_read, fd).unwrap()
    assert b"" == carry(_read, fd).unwrap()


def test_read_gives_a_pipes_bytes(carry: Carry, pipe: tuple[int, int], peers: Peers) -> None:
    """read waits for some bytes, not for all, and gives 0 bytes when the writer has closed."""
    peers.call(os.write, pipe[1], b"some")
    assert b"some" == carry(_read, pipe[0]).unwrap()
    peers.call(os.close, pipe[1])
    assert b"" == carry(_read, pipe[0]).unwrap()


def test_read_waits_on_a_non_blocking_pipe_too(
    carry: Carry, pipe: tuple[int, int], peers: Peers
) -> None:
    """A program waits alike on blocking and on non-blocking descriptors."""
    os.set_blocking(pipe[0], False)
    peers.call(os.write, pipe[1], b"some")
    assert b"some" == carry(_read, pipe[0]).unwrap()
    assert not os.get_blocking(pipe[0])


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 8192, 1_000_000])
def test_reads_give_whole_files(carry: Carry, tmp_path: Path, size: int) -> None:
    """Files of any size are read whole, also at and beside the limits of pages."""
    path = tmp_path / "file"
    path.write_bytes(content := os.urandom(size))
    assert content == carry(_read_all, path).unwrap()


def test_files_of_no_size_are_read_to_their_end(carry: Carry) -> None:
    """Files of /proc report size 0, and make their content up while they are read."""
    assert Path("/proc/cpuinfo").read_bytes()[:200] == carry(_read_all, "/proc/cpuinfo").value[:200]
    assert b"Linux" in carry(_read_all, "/proc/version").unwrap()


def test_pread_leaves_the_position(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """pread stops at the end of the file, and does not move the position."""
    fd = fd_of(file)
    assert b"2345" == carry(_pread, fd, 2).unwrap()
    assert b"89" == carry(_pread, fd, 8).unwrap()
    assert b"" == carry(_pread, fd, 10).unwrap()
    assert 0 == os.lseek(fd, 0, os.SEEK_CUR)


def test_readv_fills_one_buffer_after_another(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """readv fills buffers and parts of them in order; bytes that it does not fill are zeros."""
    fd = fd_of(file)
    assert (4, b"012", b"\x003\x00") == carry(_readv, fd).unwrap()
    assert 4 == os.lseek(fd, 0, os.SEEK_CUR)
    assert (3, b"789", b"\0\0\0") == carry(_readv_at, fd, 7).unwrap()
    assert (6, b"456", b"789") == carry(_readv_at, fd, -1).unwrap()


def test_readv_takes_parts_of_one_buffer_in_any_order(
    carry: Carry, file: Path, fd_of: FdOf
) -> None:
    """Clearing what the first part leaves free must not clear what the second was filled with."""

    @syslet
    def swapped(fd):
        data = buffer(12)
        yield readv(fd, [data[6:11], data[:5]], 0)
        return data

    assert b"56789\x0001234\0" == carry(swapped, fd_of(file)).unwrap()


def test_sendfile_of_nothing_needs_a_target_all_the_same(
    carry: Carry, file: Path, fd_of: FdOf
) -> None:
    """A target that was opened to read gives EBADF."""
    fd = fd_of(file)
    assert errno.EBADF == carry(_send_file_from, fd, fd, 0, 0).errno
    assert errno.EBADF == carry(_send_file_from, fd, fd, 100, 10).errno


def test_write_goes_on_at_the_files_position(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """write overwrites what is there, and moves the position."""
    fd = fd_of(file, os.O_RDWR)
    os.lseek(fd, 3, os.SEEK_SET)
    assert 2 == carry(_write, fd, b"ab").unwrap()
    assert b"012ab56789" == file.read_bytes()
    assert 5 == os.lseek(fd, 0, os.SEEK_CUR)


def test_write_appends_where_that_is_asked_for(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """With O_APPEND on the descriptor, write appends."""
    fd = fd_of(file, os.O_WRONLY | os.O_APPEND)
    assert 1 == carry(_write, fd, b"a").unwrap()
    assert b"0123456789a" == file.read_bytes()


def test_writing_nothing_is_nothing(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """Writing no bytes gives 0 and changes nothing."""
    assert 0 == carry(_write, fd_of(file, os.O_RDWR), b"").unwrap()
    assert b"0123456789" == file.read_bytes()


@pytest.mark.parametrize("blocking", [True, False])
def test_writes_are_whole(
    carry: Carry, pipe: tuple[int, int], peers: Peers, blocking: bool
) -> None:
    """A write that does not fit into the pipe waits for the reader, piece by piece."""
    os.set_blocking(pipe[1], blocking)
    data, drained = os.urandom(1_000_000), bytearray()
    peers.call(_drain, pipe[0], drained)
    assert len(data) == carry(_write, pipe[1], data).unwrap()
    os.close(pipe[1])
    peers.join()
    assert data == drained


@pytest.mark.parametrize("blocking", [True, False])
def test_vectors_are_written_whole(
    carry: Carry, pipe: tuple[int, int], peers: Peers, blocking: bool
) -> None:
    """A vector is written whole, wherever the pipe splits it."""
    os.set_blocking(pipe[1], blocking)
    first, second, drained = os.urandom(300_001), os.urandom(400_003), bytearray()
    peers.call(_drain, pipe[0], drained)
    assert 700_005 == carry(_writev, pipe[1], first, second).unwrap()
    os.close(pipe[1])
    peers.join()
    assert first + second + b"!" == drained


def test_pwrite_leaves_the_position(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """pwrite extends the file, and does not move the position."""
    fd = fd_of(file, os.O_RDWR)
    assert 2 == carry(_pwrite, fd, b"ab", 11).unwrap()
    assert b"0123456789\0ab" == file.read_bytes()
    assert 0 == os.lseek(fd, 0, os.SEEK_CUR)


def test_writev_writes_one_piece_after_another(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """writev writes at the position, or at an offset."""
    fd = fd_of(file, os.O_RDWR)
    assert 4 == carry(_writev, fd, b"ab", b"c").unwrap()
    assert b"abc!456789" == file.read_bytes()
    assert 2 == carry(_writev_at, fd, b"x", b"y", 8).unwrap()
    assert b"abc!4567xy" == file.read_bytes()


def test_splice_moves_into_a_pipe_and_out_of_it(
    carry: Carry, file: Path, fd_of: FdOf, pipe: tuple[int, int]
) -> None:
    """splice moves bytes at the positions, or at offsets."""
    fd = fd_of(file, os.O_RDWR)
    assert 4 == carry(_splice, fd, pipe[1], 4).unwrap()
    assert 2 == carry(_splice_from, fd, pipe[1], 100, 8).unwrap()
    assert 4 == os.lseek(fd, 0, os.SEEK_CUR)
    assert 6 == carry(_splice_to, pipe[0], fd, 6, 10).unwrap()
    assert b"0123456789012389" == file.read_bytes()
    assert 0 == carry(_splice_from, fd, pipe[1], 100, 100).unwrap()


def test_splice_waits_for_a_pipe(
    carry: Carry, file: Path, fd_of: FdOf, pipe: tuple[int, int], peers: Peers
) -> None:
    """splice from an empty pipe waits for bytes."""
    peers.call(os.write, pipe[1], b"ab")
    assert 2 == carry(_splice, pipe[0], fd_of(file, os.O_RDWR), 10).unwrap()
    assert b"ab23456789" == file.read_bytes()


def test_sendfile_sends_a_part_of_a_file(carry: Carry, file: Path, fd_of: FdOf, pair: Pair) -> None:
    """sendfile sends from an offset, or from the position, which it moves; not beyond the end."""
    one, other = pair()
    fd = fd_of(file)
    assert 3 == carry(_send_file_from, one.fileno(), fd, 2, 3).unwrap()
    assert b"234" == other.recv(100)
    assert 0 == os.lseek(fd, 0, os.SEEK_CUR)
    assert 4 == carry(_send_file, one.fileno(), fd, 4).unwrap()
    assert 4 == os.lseek(fd, 0, os.SEEK_CUR)
    assert 6 == carry(_send_file, one.fileno(), fd, 1000).unwrap()
    assert b"0123456789" == other.recv(100)
    assert 0 == carry(_send_file, one.fileno(), fd, 1000).unwrap()


def test_sendfile_copies_between_files(
    carry: Carry, file: Path, fd_of: FdOf, tmp_path: Path
) -> None:
    """sendfile also copies from one file to another."""
    target = fd_of(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    assert 10 == carry(_send_file_from, target, fd_of(file), 0, 100).unwrap()
    assert file.read_bytes() == (tmp_path / "target").read_bytes()


@pytest.mark.parametrize("blocking", [True, False])
def test_sendfile_sends_more_than_fits(
    carry: Carry, tmp_path: Path, fd_of: FdOf, pair: Pair, peers: Peers, blocking: bool
) -> None:
    """The position is behind the bytes that were sent, however few a non-blocking socket takes."""
    one, other = pair()
    one.setblocking(blocking)
    (tmp_path / "file").write_bytes(data := os.urandom(1_000_000))
    fd, drained = fd_of(tmp_path / "file"), bytearray()
    peers.call(_drain, other.fileno(), drained)
    n = carry(_send_file, one.fileno(), fd, len(data)).unwrap()
    one.close()
    peers.join()
    assert n == len(drained) == os.lseek(fd, 0, os.SEEK_CUR)
    assert data[:n] == drained
    if blocking:
        assert len(data) == n


@pytest.mark.parametrize("size", [0, 1, _PIECE - 1, _PIECE, _PIECE + 1, 3 * _PIECE + 17])
def test_a_copy_loop_copies(carry: Carry, tmp_path: Path, size: int) -> None:
    """The size of the file may be smaller or larger than the buffer, or a multiple of it."""
    (tmp_path / "source").write_bytes(content := os.urandom(size))
    assert size == carry(_copy, tmp_path / "source", tmp_path / "target").unwrap()
    assert content == (tmp_path / "target").read_bytes()


def test_a_copy_loop_takes_what_a_pipe_gives(
    carry: Carry, tmp_path: Path, pipe: tuple[int, int], peers: Peers
) -> None:
    """The writer is slow, and its pieces are smaller than the buffer."""
    data = os.urandom(300_000)

    def feed() -> None:
        for start in range(0, len(data), 10_000):
            os.write(pipe[1], data[start : start + 10_000])
        os.close(pipe[1])

    peers.call(feed)
    source = f"/proc/self/fd/{pipe[0]}"
    assert len(data) == carry(_copy, source, tmp_path / "target").unwrap()
    assert data == (tmp_path / "target").read_bytes()


def test_lent_memory_is_read_into(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """Reads fill parts of lent memory, and nothing else of it."""

    @syslet
    def reading(fd, memory):
        yield pread(fd, memory[2:5], 0)
        yield pread(fd, memory[7:], 5)

    memory = bytearray(b"..........")
    assert carry(reading, fd_of(file), memory).ok
    assert b"..012..567" == memory


def test_a_lease_is_the_memory_itself(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """The memory is accessible until the lease is released."""

    @syslet
    def leasing(fd):
        data = buffer(100)
        n = yield read(fd, data)
        return lease(data[2:n])

    with carry(leasing, fd_of(file)).unwrap() as leased:
        assert b"23456789" == bytes(leased)
        assert 8 == len(leased)


def test_one_buffer_can_be_returned_twice(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """A buffer that is returned as a lease and as bytes gives each of them its bytes."""

    @syslet
    def twice(fd):
        data = buffer(10)
        yield pread(fd, data, 0)
        return lease(data[:3]), data[2:5]

    leased, copied = carry(twice, fd_of(file)).unwrap()
    assert (b"012", b"234") == (bytes(leased), copied)
    leased.release()


def test_scratch_memory_shows_nothing_of_others(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """Bytes that a run has not written are zeros, though the memory was used before."""

    @syslet
    def everything(fd):
        data = buffer(600)
        yield pread(fd, data[:2], 0)
        return data

    @syslet
    def fill(fd):
        data = buffer(600)
        yield pread(fd, data, 0)
        yield pread(fd, data, 0)

    (file.parent / "secret").write_bytes(b"s" * 600)
    assert carry(fill, fd_of(file.parent / "secret")).ok
    assert b"01" + bytes(598) == carry(everything, fd_of(file)).unwrap()


def test_unwritten_scratch_memory_is_written_out_as_zeros(
    carry: Carry, file: Path, fd_of: FdOf
) -> None:
    """Writing an unwritten buffer does not reveal data of other runs."""

    @syslet
    def blank(fd):
        yield write(fd, buffer(5))

    fd = fd_of(file, os.O_RDWR)
    assert carry(_read_all, file).ok
    assert carry(blank, fd).ok
    assert b"\0\0\0\0\x0056789" == file.read_bytes()


_ERRORS: dict[str, tuple[Any, Any, int]] = {
    "read of what was opened to write": (_read, lambda it: [it.write_only], errno.EBADF),
    "read of a folder": (_read, lambda it: [it.folder], errno.EISDIR),
    "read of no descriptor": (_read, lambda it: [1_000_000], errno.EBADF),
    "pread of a pipe": (_pread, lambda it: [it.pipe[0], 0], errno.ESPIPE),
    "pread before the beginning": (_pread, lambda it: [it.read_only, -1], errno.EINVAL),
    "readv before the beginning": (_readv_at, lambda it: [it.folder, 0], errno.EISDIR),
    "readv of a pipe at an offset": (_readv_at, lambda it: [it.pipe[0], 0], errno.ESPIPE),
    "write of what was opened to read": (_write, lambda it: [it.read_only, b"x"], errno.EBADF),
    "write into a pipe that nobody reads": (_write, lambda it: [it.broken, b"x"], errno.EPIPE),
    "write to a full device": (_write, lambda it: [it.full, b"x"], errno.ENOSPC),
    "pwrite to a pipe": (_pwrite, lambda it: [it.pipe[1], b"x", 0], errno.ESPIPE),
    "pwrite before the beginning": (_pwrite, lambda it: [it.write_only, b"x", -1], errno.EINVAL),
    "writev of what was opened to read": (
        _writev,
        lambda it: [it.read_only, b"x", b"y"],
        errno.EBADF,
    ),
    "splice of two files": (_splice, lambda it: [it.read_only, it.write_only, 1], errno.EINVAL),
    "splice to an offset of a pipe": (
        _splice_to,
        lambda it: [it.read_only, it.pipe[1], 1, 0],
        errno.ESPIPE,
    ),
    "sendfile of no descriptor": (
        _send_file,
        lambda it: [it.write_only, 1_000_000, 1],
        errno.EBADF,
    ),
    "sendfile to no descriptor": (_send_file, lambda it: [1_000_000, it.read_only, 1], errno.EBADF),
    "sendfile of a negative count": (
        _send_file,
        lambda it: [it.write_only, it.read_only, -1],
        errno.EINVAL,
    ),
}


class _Ends:
    """Descriptors of all kinds, for the cases of `_ERRORS`."""

    def __init__(self, file: Path, fd_of: FdOf, pipe: tuple[int, int]) -> None:
        self.read_only = fd_of(file)
        self.write_only = fd_of(file, os.O_WRONLY)
        self.folder = fd_of(file.parent)
        self.full = fd_of("/dev/full", os.O_WRONLY)
        self.pipe = pipe
        reader, self.broken = os.pipe()
        os.close(reader)


@pytest.mark.parametrize(("program", "args", "number"), _ERRORS.values(), ids=_ERRORS)
def test_what_cannot_be_moved_says_why(
    carry: Carry,
    file: Path,
    fd_of: FdOf,
    pipe: tuple[int, int],
    program: Any,
    args: Callable[[_Ends], list[Any]],
    number: int,
) -> None:
    """The error is the kernel's, and the file stays as it was."""
    ends = _Ends(file, fd_of, pipe)
    try:
        result = carry(program, *args(ends))
    finally:
        os.close(ends.broken)
    assert (False, number, 0, None) == (result.ok, result.errno, result.atom, result.value)
    assert b"0123456789" == file.read_bytes()
