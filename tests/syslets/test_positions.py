"""Reads and writes without an offset use and move the position as read(2) and write(2) do."""

from __future__ import annotations

import errno
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from threadlets import CompletionRing, Syslet, sweep, syslet
from threadlets.atoms import (
    buffer,
    openat,
    pread,
    read,
    readv,
    sendfile,
    splice,
    write,
)
from waiting import wait_until

from .harness import DEADLINE_S, Carry, content_of

Pair = Callable[..., tuple[socket.socket, socket.socket]]

_DATA = b"".join(number.to_bytes(4, "big") for number in range(15_000))
_PAGE = mmap.PAGESIZE


@syslet
def _write(fd, data):
    n = yield write(fd, data)
    return n


@syslet
def _read(fd, memory):
    n = yield read(fd, memory)
    return n


@syslet
def _readv(fd, memory):
    n = yield readv(fd, [memory[:7], memory[7:10], memory[10:]])
    return n


@syslet
def _pread(fd, memory, offset):
    n = yield pread(fd, memory, offset)
    return n


@syslet
def _preadv(fd, memory, offset):
    n = yield readv(fd, [memory[:7], memory[7:]], offset)
    return n


@syslet
def _read_own_twice(path, memory):
    fd = yield openat(path)
    n_first = yield read(fd, memory)
    second = buffer(100)
    n_second = yield read(fd, second)
    return n_first, second[:n_second]


@syslet
def _read_twice(path, size):
    fd = yield openat(path)
    first, second = buffer(size), buffer(size)
    n_first = yield read(fd, first)
    n_second = yield read(fd, second)
    return first[:n_first], second[:n_second]


@syslet
def _read_piece(fd):
    piece = buffer(16)
    n = yield read(fd, piece)
    return piece[:n]


@syslet
def _move_about(path, target, pipe_out, pipe_in):
    fd = yield openat(path, os.O_RDWR)
    first = buffer(10)
    yield read(fd, first)
    yield read(fd, first)
    yield splice(fd, pipe_in, 10)
    yield sendfile(target, fd, None, 10)
    yield write(fd, b"written")
    yield write(fd, b" twice")
    yield splice(pipe_out, fd, 10)
    yield write(fd, b"thrice")
    last = buffer(10)
    n = yield readv(fd, [last])
    return fd, first, last[:n]


@syslet
def _sendfile(to, from_, count):
    n = yield sendfile(to, from_, None, count)
    return n


@pytest.mark.parametrize("program", [_read, _readv], ids=["read", "readv"])
def test_a_read_that_fails_in_the_middle_moves_the_position_by_what_it_gives(
    carry: Carry, tmp_path: Path, fd_of: Callable[..., int], half: mmap.mmap, program: Syslet[...]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(_DATA)
    fd = fd_of(path)
    n = carry(program, fd, half).unwrap()
    assert _PAGE == n == os.lseek(fd, 0, os.SEEK_CUR)
    assert _DATA[:_PAGE] == half[:_PAGE]


@pytest.mark.parametrize("program", [_pread, _preadv], ids=["pread", "readv"])
def test_a_read_at_an_offset_that_fails_in_the_middle_moves_nothing(
    carry: Carry, tmp_path: Path, fd_of: Callable[..., int], half: mmap.mmap, program: Syslet[...]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(_DATA)
    fd = fd_of(path)
    assert _PAGE == carry(program, fd, half, 100).unwrap()
    assert (0, _DATA[100 : 100 + _PAGE]) == (os.lseek(fd, 0, os.SEEK_CUR), half[:_PAGE])


def test_a_read_goes_on_where_one_that_failed_in_the_middle_has_stopped(
    carry: Carry, tmp_path: Path, half: mmap.mmap
) -> None:
    path = tmp_path / "file"
    path.write_bytes(_DATA)
    assert (_PAGE, _DATA[_PAGE : _PAGE + 100]) == carry(_read_own_twice, str(path), half).unwrap()


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that can be dropped from the cache."""
    path = tmp_path_factory.mktemp("disk") / "file"
    with path.open("wb") as file:
        file.write(_DATA)
        file.flush()
        os.fsync(file.fileno())
    return path


def test_a_read_goes_on_where_one_has_stopped_that_only_the_disk_could_finish(
    carry: Carry, on_disk: Path, fd_of: Callable[..., int]
) -> None:
    fd = fd_of(on_disk)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    # Only the first page is in the cache.
    os.pread(fd, 1, 0)
    size = 3 * _PAGE
    assert (_DATA[:size], _DATA[size : 2 * size]) == carry(_read_twice, on_disk, size).unwrap()


def test_everything_that_moves_a_position_moves_the_same_one(
    carry: Carry, tmp_path: Path, fd_of: Callable[..., int], pipe: tuple[int, int]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(_DATA[:200])
    target = fd_of(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    fd, first, last = carry(_move_about, str(path), target, *pipe).unwrap()
    assert (_DATA[10:20], _DATA[69:79]) == (first, last)
    assert _DATA[30:40] == content_of(target)
    expected = _DATA[:40] + b"written twice" + _DATA[20:30] + b"thrice" + _DATA[69:200]
    assert expected == path.read_bytes()
    assert 79 == os.lseek(fd, 0, os.SEEK_CUR)
    os.close(fd)


def test_what_did_not_get_through_is_not_lost_when_sending_is_cancelled(
    engine_kind: str, pair: Pair, tmp_path: Path, fd_of: Callable[..., int]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(_DATA * 100)
    source = fd_of(path)
    sender, receiver = pair()
    sender.setblocking(False)
    ring = CompletionRing()
    assert ring.submit(_sendfile, sender, source, 100 * len(_DATA)) is None
    wait_until(lambda: os.lseek(source, 0, os.SEEK_CUR) > 65536)
    ring.cancel()
    ((_, result),) = ring.wait(1, DEADLINE_S)
    sender.close()
    with receiver, receiver.makefile("rb") as file:
        n = len(file.read())
    assert errno.ECANCELED == result.errno
    assert n == result.progress == os.lseek(source, 0, os.SEEK_CUR)


def test_a_position_that_many_share_gives_each_piece_to_one(
    engine_kind: str, tmp_path: Path, fd_of: Callable[..., int]
) -> None:
    n_pieces = 3000
    path = tmp_path / "file"
    path.write_bytes(b"".join(b"%015d\n" % number for number in range(n_pieces)))
    pieces = [result.unwrap() for result in sweep(_read_piece, [fd_of(path)] * n_pieces)]
    assert path.read_bytes().splitlines(True) == sorted(pieces)


def test_a_position_that_many_share_takes_each_piece_once(
    engine_kind: str, tmp_path: Path, fd_of: Callable[..., int]
) -> None:
    pieces = [b"%015d\n" % number for number in range(3000)]
    fd = fd_of(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert all(result.ok for result in sweep(_write, [(fd, piece) for piece in pieces]))
    assert pieces == sorted(content_of(fd).splitlines(True))
