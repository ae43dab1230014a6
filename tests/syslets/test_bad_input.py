"""Input that is wrong, strange, too large, or gone: a value with an errno, or a clear exception."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from threadlets import BufferPool, CompletionRing, sweep, syslet
from threadlets.atoms import (
    accept,
    break_if,
    buffer,
    close,
    connect,
    fallocate,
    ftruncate,
    growing,
    lease,
    loop,
    nop,
    openat,
    poll,
    pread,
    pwrite,
    read,
    readv,
    recv,
    send,
    statx,
    unlinkat,
    write,
    writev,
)
from waiting import wait_until

from .harness import Carry

FdOf = Callable[..., int]

_HUGE = 1 << 40


@syslet
def _read_small(path):
    fd = yield openat(path)
    data = buffer(4096)
    n = yield read(fd, data)
    yield close(fd)
    return data[:n]


@syslet
def _status_then_content(path):
    info = yield statx(path)
    fd = yield openat(path)
    data = buffer(100)
    n = yield read(fd, data)
    return info.size, data[:n]


@syslet
def _remove_then_open(path):
    yield statx(path)
    yield unlinkat(path)
    fd = yield openat(path)
    yield read(fd, buffer(10))


@syslet
def _read_part(fd, start, length):
    data = buffer(10)
    yield pread(fd, data, 0)
    n = yield pread(fd, data[start:length], 0)
    return n


@syslet
def _read_into(fd, memory):
    n = yield read(fd, memory)
    return n


@syslet
def _read_lent_part(fd, memory, start, stop):
    n = yield pread(fd, memory[start:stop], 0)
    return n


@syslet
def _write_part(fd, data, start, stop):
    n = yield pwrite(fd, data[start:stop], 0)
    return n


@syslet
def _read_up_to(fd, size):
    data = buffer(size)
    n = yield pread(fd, data, 0)
    return data[:n]


@syslet
def _read_all(path, limit):
    fd = yield openat(path)
    content = growing(limit)
    with loop():
        n = yield read(fd, content)
        break_if(n == 0)
    return content


@syslet
def _write_at(fd, data, offset):
    n = yield pwrite(fd, data, offset)
    return n


@syslet
def _read_at(fd, offset):
    data = buffer(10)
    n = yield pread(fd, data, offset)
    return data[:n]


@syslet
def _cut(fd, length):
    yield ftruncate(fd, length)


@syslet
def _connect(fd, where):
    yield connect(fd, where)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


def _failure(result: Any) -> tuple[bool, int, int, object]:
    return result.ok, result.errno, result.atom, result.value


def test_a_failure_names_the_atom_and_the_error(carry: Carry, file: Path) -> None:
    """A missing file, a folder and a path beneath a file fail with their errno at their atom."""
    assert (False, errno.ENOENT, 0, None) == _failure(carry(_read_small, file.parent / "missing"))
    assert (False, errno.EISDIR, 1, None) == _failure(carry(_read_small, file.parent))
    assert (False, errno.ENOTDIR, 0, None) == _failure(carry(_read_small, file / "x"))


def test_a_failure_can_be_raised(carry: Carry, tmp_path: Path) -> None:
    """`unwrap` and `error` give the exception of the errno; a success has none."""
    result = carry(_read_small, tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        result.unwrap()
    assert isinstance(result.error, FileNotFoundError)
    assert not result
    assert carry(_read_small, "/proc/version").error is None


def test_files_of_the_kernel_that_cannot_be_written_say_so(carry: Carry) -> None:
    """Opening a read-only file of /proc/sys for writing is refused, also for root."""

    @syslet
    def opening(path):
        yield openat(path, os.O_WRONLY)

    assert carry(opening, "/proc/version").errno in (errno.EACCES, errno.EPERM, errno.EIO, 0)
    assert errno.EACCES == carry(opening, "/proc/sys/kernel/osrelease").errno


def test_permission_is_that_of_the_calling_process(tmp_path: Path) -> None:
    """A process that gave its privileges up gets EACCES, in every way of running."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    secret.chmod(0o600)
    source = f"""
import os, threadlets
from threadlets import sweep, syslet
from threadlets.atoms import openat
@syslet
def opening(path):
    yield openat(path)
os.setgid(65534); os.setuid(65534)
path = {str(secret)!r}
results = [opening.run(path), *sweep(opening, [path])]
async def main():
    results.append(await opening(path))
threadlets.run(main())
print(*(result.errno for result in results))
"""
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.owner() == "root" and folder not in (Path("/"), Path("/tmp")):
            folder.chmod(0o755)
    process = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False
    )
    if "ModuleNotFoundError" in process.stderr or "PermissionError" in process.stderr:
        pytest.skip("others cannot read this environment")
    assert (f"{errno.EACCES} {errno.EACCES} {errno.EACCES}\n", "") == (
        process.stdout,
        process.stderr,
    )


def test_files_that_disappear_between_two_atoms_fail_there(carry: Carry, file: Path) -> None:
    """The result names the atom that found the file missing."""
    assert (False, errno.ENOENT, 2, None) == _failure(carry(_remove_then_open, file))


def test_what_is_read_after_a_status_need_not_have_its_size(carry: Carry) -> None:
    """A file of /proc reports size 0, and has content."""
    size, content = carry(_status_then_content, "/proc/version").unwrap()
    assert 0 == size
    assert content.startswith(b"Linux")


def test_sparse_files_are_read_and_written_beyond_4_gib(
    carry: Carry, file: Path, fd_of: FdOf
) -> None:
    """Offsets and lengths have 64 bits."""
    fd = fd_of(file, os.O_RDWR)
    assert carry(_cut, fd, _HUGE).ok
    assert _HUGE == file.stat().st_size
    assert 3 == carry(_write_at, fd, b"end", _HUGE - 3).unwrap()
    assert b"\0\0end" == carry(_read_at, fd, _HUGE - 5).unwrap()
    assert b"" == carry(_read_at, fd, _HUGE).unwrap()
    assert bytes(10) == carry(_read_at, fd, (1 << 32) + 7).unwrap()
    assert 0 == carry(_read_at, fd, 2**63 - 1).errno or carry(_read_at, fd, 2**63 - 1).errno in (
        errno.EINVAL,
        errno.EOVERFLOW,
    )


def test_offsets_beyond_what_a_file_can_have_are_errors(
    carry: Carry, file: Path, fd_of: FdOf
) -> None:
    """The file system answers EFBIG or EINVAL; no offset wraps around."""
    fd = fd_of(file, os.O_RDWR)
    for offset in (2**63 - 1, 2**63 - 3, -1, -(2**63)):
        assert carry(_write_at, fd, b"x", offset).errno in (errno.EFBIG, errno.EINVAL)
    for length in (-1, -(2**63), 2**63 - 1):
        assert carry(_cut, fd, length).errno in (errno.EFBIG, errno.EINVAL)
    assert b"0123456789" == file.read_bytes()


def test_a_closed_descriptor_is_an_error(carry: Carry, file: Path) -> None:
    """An atom that uses a descriptor which the program has closed fails with EBADF."""

    @syslet
    def use_after_close(path):
        fd = yield openat(path)
        yield close(fd)
        yield read(fd, buffer(10))

    assert (False, errno.EBADF, 2, None) == _failure(carry(use_after_close, file))


def test_descriptors_of_others_stay_open(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """A descriptor that was given to a run stays open when the run ends or fails."""
    fd = fd_of(file)
    assert carry(_read_part, fd, 0, 5).ok
    assert not carry(_read_part, fd, 20, 5).ok
    os.fstat(fd)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(11, 12), (0, 11), (5, 3), (-1, 5), (-(2**63), 0), (2**63 - 1, 2**63 - 1), (0, 2**63 - 1)],
)
def test_parts_outside_of_their_memory_are_errors(
    carry: Carry, file: Path, fd_of: FdOf, start: int, stop: int
) -> None:
    """A part outside of a buffer or of lent memory gives EFAULT, for reads and for writes."""
    fd, memory = fd_of(file, os.O_RDWR), bytearray(10)
    assert (False, errno.EFAULT) == _failure(carry(_read_part, fd, start, stop))[:2]
    assert (False, errno.EFAULT) == _failure(carry(_read_lent_part, fd, memory, start, stop))[:2]
    assert (False, errno.EFAULT) == _failure(carry(_write_part, fd, b"x" * 10, start, stop))[:2]
    assert bytes(10) == memory
    assert b"0123456789" == file.read_bytes()


def test_empty_parts_are_allowed_anywhere_within(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """An empty part may begin at the very end of the memory."""
    assert 0 == carry(_read_part, fd_of(file), 10, 10).unwrap()


def test_buffers_beyond_the_pools_bound_are_errors(file: Path, fd_of: FdOf) -> None:
    """Each way of running that takes a pool gives ENOBUFS, and all memory returns to the pool."""
    pool, fd = BufferPool(4096), fd_of(file)
    ring = CompletionRing()
    for size, expected in ((4096, 0), (4097, errno.ENOBUFS)):
        (swept,) = sweep(_read_up_to, [(fd, size)], pool=pool)
        entry = ring.submit(_read_up_to, fd, size, pool=pool)
        submitted = entry if entry is not None else ring.wait(1, 10)[0].result
        direct = _read_up_to.native.execute((fd, size), None, pool)
        for result in (swept, submitted, direct):
            assert (expected, 0) == (result.errno, result.atom)
    assert 0 == pool.in_use


def test_buffers_of_absurd_sizes_are_errors(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """The result is ENOBUFS or EINVAL, without an attempt to allocate that much."""
    for size in (2**63 - 1, 1 << 50, -1, -(2**63)):
        assert carry(_read_up_to, fd_of(file), size).errno in (errno.ENOBUFS, errno.EINVAL)


def test_growing_memory_ends_at_its_limit(carry: Carry, file: Path) -> None:
    """A file that fits exactly is read to its end; one byte more is ENOBUFS."""
    assert b"0123456789" == carry(_read_all, file, 10).unwrap()
    assert b"0123456789" == carry(_read_all, file, 11).unwrap()
    assert errno.ENOBUFS == carry(_read_all, file, 9).errno
    assert carry(_read_all, file, -1).errno in (errno.ENOBUFS, errno.EINVAL)


def test_lent_memory_can_have_any_shape(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """A read fills the bytes of a view, whatever its shape and item type."""
    memory = memoryview(bytearray(8)).cast("i", (2, 1))
    assert 8 == carry(_read_into, fd_of(file), memory).unwrap()
    assert b"01234567" == memory.tobytes()


def test_empty_memory_is_memory(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """Reads into empty memory and writes from it succeed with 0 bytes."""
    fd = fd_of(file, os.O_RDWR)
    assert 0 == carry(_read_into, fd, bytearray()).unwrap()
    assert 0 == carry(_write_at, fd, b"", 0).unwrap()
    assert b"" == carry(_read_up_to, fd, 0).unwrap()


def test_lent_memory_is_given_back_at_once(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """Lent memory can be resized as soon as there is a result, of a success or of a failure."""
    memory = bytearray(10)
    assert carry(_read_into, fd_of(file), memory).ok
    memory.append(0)
    assert not carry(_read_into, 1_000_000, memory).ok
    memory.append(0)


def test_vectors_with_a_part_outside_are_errors(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """If one part of a vector is outside of its memory, nothing is read or written."""

    @syslet
    def reading(fd, memory, n):
        yield readv(fd, [memory[:2], memory[n:]], 0)

    @syslet
    def writing(fd, memory, n):
        yield writev(fd, [memory[:2], memory[n:]], 0)

    fd, memory = fd_of(file, os.O_RDWR), bytearray(10)
    assert errno.EFAULT == carry(reading, fd, memory, 11).errno
    assert errno.EFAULT == carry(writing, fd, memory, 11).errno
    assert bytes(10) == memory
    assert b"0123456789" == file.read_bytes()


def test_unused_memory_is_returned_as_it_was_declared(carry: Carry) -> None:
    """A buffer that no atom has filled is zeros, and growing memory is empty."""

    @syslet
    def idle(fd):
        data, more = buffer(5), growing(5)
        value = yield poll(fd, 4)
        with loop():
            yield nop()
            break_if(value > 0)
            yield read(fd, data)
            yield read(fd, more)
        return data, more

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        assert (bytes(5), b"") == carry(idle, sock).unwrap()


def test_a_released_lease_is_gone(file: Path, fd_of: FdOf) -> None:
    """A released lease has no buffer, and a lease that is in use cannot be released."""

    @syslet
    def leasing(fd):
        data = buffer(100)
        n = yield read(fd, data)
        return lease(data[:n])

    leased = leasing.run(fd_of(file)).unwrap()
    view = memoryview(leased)
    with pytest.raises(BufferError, match="in use"):
        leased.release()
    view.release()
    leased.release()
    leased.release()
    with pytest.raises(BufferError, match="released"):
        memoryview(leased)


def test_sockets_take_no_files(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """Every socket atom gives ENOTSOCK for a file, without waiting."""

    @syslet
    def accepting(fd):
        yield accept(fd)

    @syslet
    def sending(fd):
        yield send(fd, b"x")

    @syslet
    def receiving(fd):
        yield recv(fd, buffer(1))

    fd = fd_of(file, os.O_RDWR)
    for program in (accepting, sending, receiving):
        assert errno.ENOTSOCK == carry(program, fd).errno
    assert errno.ENOTSOCK == carry(_connect, fd, "x").errno


@pytest.fixture
def two_pages(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a file system that has room for two pages."""
    libc, path = ctypes.CDLL(None), os.fsencode(tmp_path)
    if libc.mount(b"tmpfs", path, b"tmpfs", ctypes.c_ulong(0), b"nr_blocks=2"):
        pytest.skip("file systems may not be mounted here")
    yield tmp_path
    # The kernel may close an engine's files a moment after their operations have ended.
    wait_until(lambda: libc.umount(path) == 0)


def test_a_full_device_takes_what_fits(carry: Carry, two_pages: Path) -> None:
    """A write that finds too little room fills that and gives ENOSPC, and so does one that finds none."""

    @syslet
    def filling(path, data):
        fd = yield openat(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        n = yield write(fd, data)
        yield close(fd)
        return n

    path = two_pages / "file"
    data = os.urandom(2 * mmap.PAGESIZE + 100)
    for _ in range(2):
        assert errno.ENOSPC == carry(filling, path, data).errno
        assert data[: 2 * mmap.PAGESIZE] == path.read_bytes()


def test_a_device_without_room_takes_nothing(carry: Carry) -> None:
    """A write to a device without room gives ENOSPC."""

    @syslet
    def filling(fd):
        n = yield write(fd, b"x" * 5000)
        return n

    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        assert errno.ENOSPC == carry(filling, fd).errno
    finally:
        os.close(fd)


def test_files_have_a_greatest_size(tmp_path: Path, script: Any) -> None:
    """Under RLIMIT_FSIZE, a write that fits exactly succeeds, and the next one gives EFBIG."""
    process = script(
        f"""
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        @syslet
        def fill(path):
            fd = yield openat(path, os.O_WRONLY | os.O_CREAT)
            n = yield write(fd, b"x" * 1000)
            m = yield write(fd, b"x").unchecked()
            return n, m

        async def main():
            return await fill({str(tmp_path / "b")!r})

        print(fill.run({str(tmp_path / "a")!r}).value)
        print(threadlets.run(main()).value)
        """,
        # io_uring does not apply this limit.
        THREADLETS_ENGINE="workers",
    )
    stdout, stderr = process.communicate(timeout=20)
    assert (f"(1000, {-errno.EFBIG})\n" * 2, "") == (stdout, stderr)


@pytest.mark.parametrize("size", [1500, 65536 + 500])
def test_copy_that_does_not_fit_is_no_success(tmp_path: Path, script: Any, size: int) -> None:
    """A copy gives EFBIG, even if only the last piece was written in part."""
    (tmp_path / "source").write_bytes(bytes(size))
    process = script(
        f"""
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({size - 100}, {size - 100}))

        @syslet
        def copy(source, target):
            src = yield openat(source)
            dst = yield openat(target, os.O_WRONLY | os.O_CREAT)
            chunk = buffer(65536)
            with loop():
                n = yield read(src, chunk)
                break_if(n == 0)
                yield write(dst, chunk[:n])
            return n

        paths = [{str(tmp_path / "source")!r}, {str(tmp_path / "target")!r}]

        async def main():
            return await copy(*paths)

        print(copy.run(*paths).errno, threadlets.run(main()).errno)
        """,
        THREADLETS_ENGINE="workers",
    )
    stdout, stderr = process.communicate(timeout=20)
    assert (f"{errno.EFBIG} {errno.EFBIG}\n", "") == (stdout, stderr)


def test_fallocate_of_too_much_is_refused(carry: Carry, file: Path, fd_of: FdOf) -> None:
    """Too large a length gives ENOSPC or EFBIG, and a negative one EINVAL."""

    @syslet
    def reserve(fd, length):
        yield fallocate(fd, 0, 0, length)

    fd = fd_of(file, os.O_RDWR)
    assert carry(reserve, fd, 1 << 50).errno in (errno.ENOSPC, errno.EFBIG)
    assert errno.EINVAL == carry(reserve, fd, -1).errno
