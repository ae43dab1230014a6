"""Writes that an error cuts short: the result tells the progress, and the position is behind it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from threadlets import CompletionRing, Result, Syslet, sweep, syslet
from threadlets.atoms import (
    Flow,
    add,
    break_if,
    counter,
    loop,
    openat,
    pwrite,
    send,
    sendfile,
    sendmsg,
    write,
    writev,
)
from threadlets.testing import use_engine

from .harness import DEADLINE_S, Carry, content_of, file_size_limit, with_every_atom

Pair = Callable[..., tuple[socket.socket, socket.socket]]

_ROOM = 20_480
_DATA = b"".join(number.to_bytes(4, "big") for number in range(15_000))


@syslet
def _write(fd, data):
    n = yield write(fd, data)
    return n


@syslet
def _writev(fd, data):
    n = yield writev(fd, [data[:7], data[7:10], data[10:]])
    return n


@syslet
def _write_pieces(fd, data, size, length):
    n_written = counter()
    with loop():
        break_if(n_written == length)
        n = yield write(fd, data[n_written : n_written + size])
        yield add(n_written, n)


@syslet
def _write_on_after_failing(fd, data, more):
    yield write(fd, data).unchecked()
    n = yield write(fd, more)
    return n


@syslet
def _write_own(path, data):
    fd = yield openat(path, os.O_WRONLY)
    n = yield write(fd, data)
    return n


@syslet
def _writev_own(path, data):
    fd = yield openat(path, os.O_WRONLY)
    n = yield writev(fd, [data[:7], data[7:10], data[10:]])
    return n


@syslet
def _append_own(path, data):
    fd = yield openat(path, os.O_WRONLY | os.O_APPEND)
    yield write(fd, data[:100])
    n = yield write(fd, data[100:])
    return n


@syslet
def _write_own_pieces(path, data, size, length):
    fd = yield openat(path, os.O_WRONLY)
    n_written = counter()
    with loop():
        break_if(n_written == length)
        n = yield writev(fd, [data[n_written : n_written + size]])
        yield add(n_written, n)


@syslet
def _pwrite(fd, data, offset):
    n = yield pwrite(fd, data, offset)
    return n


@syslet
def _pwritev(fd, data, offset):
    n = yield writev(fd, [data[:7], data[7:]], offset)
    return n


@syslet
def _send(fd, data):
    n = yield send(fd, data)
    return n


@syslet
def _sendmsg(fd, data):
    n = yield sendmsg(fd, [data[:7], data[7:]])
    return n


@syslet
def _write_own_and_keep(path, data):
    fd = yield openat(path, os.O_RDWR)
    yield write(fd, data[:100])
    yield write(fd, data[100:]).unchecked()
    return fd


@syslet
def _sendfile(to, from_, count):
    n = yield sendfile(to, from_, None, count)
    return n


@pytest.fixture(params=["limited", "sealed"])
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Return a maker of empty files that take `_ROOM` bytes and then fail; it returns their paths."""
    fds = []

    def limited() -> str:
        path = tmp_path / str(len(fds))
        fds.append(os.open(path, os.O_RDWR | os.O_CREAT))
        return str(path)

    def sealed() -> str:
        fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _ROOM)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        fds.append(fd)
        return f"/proc/self/fd/{fd}"

    if request.param == "limited":
        with file_size_limit(_ROOM):
            yield limited
    else:
        yield sealed
    for fd in fds:
        os.close(fd)


def _written_by_the_kernel(fd: int, data: bytes) -> tuple[int, int]:
    """Call write(2) until it fails; return the number of bytes written, and the errno."""
    n_written = 0
    while True:
        try:
            n_written += os.write(fd, data[n_written:])
        except OSError as error:
            return n_written, error.errno or 0


def _fate(fd: int, result: Result) -> tuple[object, ...]:
    return result.errno, result.progress, os.lseek(fd, 0, os.SEEK_CUR), content_of(fd)


@pytest.mark.parametrize("program", [_write, _writev], ids=["write", "writev"])
@pytest.mark.parametrize("flags", [0, os.O_APPEND], ids=["plain", "append"])
@pytest.mark.parametrize("start", [0, 4097])
def test_a_write_that_fails_in_the_middle_tells_how_much_it_has_written(
    carry: Carry, full: Callable[[], str], fd_of: Callable[..., int], program: Syslet[...],
    flags: int, start: int,
) -> None:  # fmt: skip
    expected_fd, fd = fd_of(full(), os.O_RDWR | flags), fd_of(full(), os.O_RDWR | flags)
    for it in (expected_fd, fd):
        os.lseek(it, start, os.SEEK_SET)
    n_written, number = _written_by_the_kernel(expected_fd, _DATA)
    position = os.lseek(expected_fd, 0, os.SEEK_CUR)
    result = carry(program, fd, _DATA)
    assert (number, n_written, position, content_of(expected_fd)) == _fate(fd, result)
    assert result.value is None
    # A second write adds nothing, and above all does not overwrite what is there.
    assert (number, 0, position, content_of(expected_fd)) == _fate(
        fd, carry(program, fd, _DATA[:99])
    )


@pytest.mark.parametrize("program", [_write_own, _writev_own], ids=["write", "writev"])
def test_a_run_that_has_opened_the_file_itself_writes_a_beginning(
    carry: Carry, full: Callable[[], str], program: Syslet[...]
) -> None:
    path = full()
    result = carry(program, path, _DATA)
    assert (_ROOM, _DATA[:_ROOM]) == (result.progress, Path(path).read_bytes())
    assert result.errno in (errno.EFBIG, errno.EPERM)


def test_a_run_that_appends_writes_a_beginning(
    carry: Carry, tmp_path: Path, nothing_leaks: None
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with file_size_limit(_ROOM):
        result = carry(_append_own, str(path), _DATA)
    assert (errno.EFBIG, _ROOM - 106) == (result.errno, result.progress)
    assert b"before" + _DATA[: _ROOM - 6] == path.read_bytes()


@pytest.mark.parametrize("program", [_pwrite, _pwritev], ids=["pwrite", "writev"])
def test_a_write_at_an_offset_goes_on_there_and_moves_nothing(
    carry: Carry, full: Callable[[], str], fd_of: Callable[..., int], program: Syslet[...]
) -> None:
    fd = fd_of(full(), os.O_RDWR)
    os.lseek(fd, 7, os.SEEK_SET)
    result = carry(program, fd, _DATA, 4096)
    assert (_ROOM - 4096, 7) == (result.progress, os.lseek(fd, 0, os.SEEK_CUR))
    assert bytes(4096) + _DATA[: _ROOM - 4096] == content_of(fd)


def test_a_run_writes_pieces_to_a_file_of_its_own(carry: Carry, full: Callable[[], str]) -> None:
    path = full()
    result = carry(_write_own_pieces, path, _DATA, 3000, len(_DATA))
    assert (_ROOM % 3000, _DATA[:_ROOM]) == (result.progress, Path(path).read_bytes())


def test_pieces_are_written_one_behind_the_other(
    carry: Carry, full: Callable[[], str], fd_of: Callable[..., int]
) -> None:
    fd = fd_of(full(), os.O_RDWR)
    result = carry(_write_pieces, fd, _DATA, 3000, len(_DATA))
    assert (_ROOM % 3000, _ROOM) == (result.progress, os.lseek(fd, 0, os.SEEK_CUR))
    assert _DATA[:_ROOM] == content_of(fd)


def test_a_program_goes_on_behind_what_a_failed_write_has_written(
    carry: Carry, full: Callable[[], str], fd_of: Callable[..., int]
) -> None:
    fd = fd_of(full(), os.O_RDWR)
    result = carry(_write_on_after_failing, fd, _DATA, b"more")
    assert (0, _ROOM) == (result.progress, os.lseek(fd, 0, os.SEEK_CUR))
    assert 1 == result.atom
    assert _DATA[:_ROOM] == content_of(fd)


def test_a_descriptor_that_is_handed_over_stands_behind_what_was_written(
    carry: Carry, full: Callable[[], str]
) -> None:
    path = full()
    result = carry(_write_own_and_keep, path, _DATA)
    assert result.ok
    assert _ROOM - 100 == result.progress
    fd = result.value
    assert (_ROOM, _DATA[:_ROOM]) == (os.lseek(fd, 0, os.SEEK_CUR), content_of(fd))
    os.close(fd)


@pytest.mark.parametrize("program", [_write, _writev], ids=["write", "writev"])
def test_a_write_from_memory_that_faults_leaves_the_position_behind_it(
    carry: Carry, tmp_path: Path, fd_of: Callable[..., int], half: mmap.mmap, program: Syslet[...]
) -> None:
    fd = fd_of(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    result = carry(program, fd, half)
    content = content_of(fd)
    # The kernel may stop a little before the end of the page.
    assert bytes(half[: len(content)]) == content
    assert len(content) > 0
    assert (errno.EFAULT, len(content), len(content), content) == _fate(fd, result)


def test_a_named_pipe_has_no_position(
    carry: Carry, tmp_path: Path, fd_of: Callable[..., int]
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = fd_of(path, os.O_RDONLY | os.O_NONBLOCK)
    assert carry(_write_own_pieces, str(path), _DATA[:4000], 1000, 4000).ok
    assert _DATA[:4000] == os.read(reader, 5000)


def test_a_device_that_is_full_has_taken_nothing(carry: Carry) -> None:
    result = carry(_write_own, "/dev/full", _DATA)
    assert (errno.ENOSPC, 0) == (result.errno, result.progress)


def test_a_full_target_leaves_a_file_that_is_sent_behind_what_was_sent(
    carry: Carry, full: Callable[[], str], tmp_path: Path, fd_of: Callable[..., int]
) -> None:
    path = tmp_path / "file"
    with file_size_limit(resource.RLIM_INFINITY):
        path.write_bytes(_DATA)
    target, source = fd_of(full(), os.O_RDWR), fd_of(path)
    n = carry(_sendfile, target, source, len(_DATA)).unwrap()
    assert _DATA[:n] == content_of(target)[:n]
    assert [n, n] == [os.lseek(fd, 0, os.SEEK_CUR) for fd in (source, target)]
    assert _ROOM == n


@pytest.mark.parametrize(
    ("way", "program"),
    [
        ("pipe", _write),
        ("pipe", _writev),
        ("socket", _write),
        ("socket", _writev),
        ("socket", _send),
        ("socket", _sendmsg),
    ],
)
@pytest.mark.parametrize("end", ["cancelled", "timed out", "hung up"])
def test_what_the_other_end_has_is_what_a_write_tells(
    engine_kind: str, pair: Pair, way: str, program: Syslet[...], end: str
) -> None:
    if way == "pipe":
        from_fd, to_fd = os.pipe()
    else:
        from_fd, to_fd = (it.detach() for it in pair())
    ring = CompletionRing()
    # The simulation's own time passes at once.
    timeout = 0.05 if end == "timed out" else None
    with with_closed(from_fd, to_fd) as close:
        assert ring.submit(program, to_fd, bytes(2_000_000), timeout=timeout) is None
        n_read = 0
        if end != "timed out":
            # This is more than a pipe or a socket holds, so the engine has continued to write.
            while n_read < 500_000:
                n_read += len(os.read(from_fd, 65536))
        if end == "cancelled":
            ring.cancel()
        if end == "hung up":
            close(from_fd)
        ((_, result),) = ring.wait(1, DEADLINE_S)
        number = {"cancelled": errno.ECANCELED, "timed out": errno.ETIMEDOUT}.get(end)
        if end == "hung up":
            assert result.errno in (errno.EPIPE, errno.ECONNRESET)
            assert n_read <= result.progress < 2_000_000
            return
        close(to_fd)
        while data := os.read(from_fd, 65536):
            n_read += len(data)
        assert (number, n_read) == (result.errno, result.progress)


@contextlib.contextmanager
def with_closed(*fds: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that closes a descriptor; in the end, close those that are still open."""
    left = set(fds)

    def close(fd: int) -> None:
        left.remove(fd)
        os.close(fd)

    yield close
    for fd in left:
        os.close(fd)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("opens", [False, True], ids=["given", "own"])
def test_whatever_fails_and_falls_short_the_file_has_a_beginning(
    tmp_path: Path, nothing_leaks: None, seed: int, opens: bool
) -> None:
    path = tmp_path / "file"
    path.touch()
    with use_engine("sim", seed=seed, error_rate=0.1, short_rate=0.5):
        program: Syslet[...] = with_every_atom(_write_own if opens else _write, Flow.ASYNC)
        fd = None if opens else os.open(path, os.O_WRONLY)
        (result,) = sweep(program, [(path if fd is None else fd, _DATA)])
        if fd is not None:
            os.close(fd)
    content = path.read_bytes()
    assert _DATA[: len(content)] == content
    assert (result.value if result.ok else result.progress) == len(content)


def test_results_differ_by_their_progress(
    full: Callable[[], str], fd_of: Callable[..., int], nothing_leaks: None
) -> None:
    fd = fd_of(full(), os.O_RDWR)
    one, other, same = (_write.run(fd, _DATA) for _ in range(3))
    assert f"Result(errno={errno.errorcode[one.errno]}, atom=0, progress={_ROOM})" == repr(one)
    assert one != other
    assert other == same
    assert hash(other) == hash(same)


def test_what_succeeds_has_no_progress_but_a_value(nothing_leaks: None) -> None:
    with open(os.devnull, "wb") as file:
        result: Any = _write.run(file, b"abc")
    assert (3, 0) == (result.value, result.progress)
