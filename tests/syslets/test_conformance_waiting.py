"""Conformance: atoms that wait or compute, and the flags of flow, in every way of running."""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from threadlets import CompletionRing, Syslet, engine, syslet
from threadlets.atoms import (
    Flow,
    add,
    buffer,
    counter,
    nop,
    openat,
    poll,
    read,
    timeout,
    waitid,
    write,
)

from .harness import DEADLINE_S, Carry, Peers, within_deadline

Pair = Callable[..., tuple[socket.socket, socket.socket]]


@syslet
def _poll(fd, events):
    revents = yield poll(fd, events)
    return revents


@syslet
def _sleep(seconds):
    value = yield timeout(seconds)
    return value


@syslet
def _wait(idtype, number, options):
    child = yield waitid(idtype, number, options)
    return child


@syslet
def _sum(a, b):
    total = counter(3)
    yield add(total, a)
    product = yield add(total, b, -2)
    yield nop()
    return total, product


@pytest.fixture
def child() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    started = []

    def child(source: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-S", "-c", source]))
        return started[-1]

    yield child
    for process in started:
        process.kill()
        process.wait()


def test_poll_says_what_a_descriptor_is_ready_for(carry: Carry, pair: Pair) -> None:
    """poll returns those of the events asked for that are ready."""
    one, other = pair()
    assert select.POLLOUT == carry(_poll, one, select.POLLIN | select.POLLOUT).unwrap()
    other.send(b"x")
    assert select.POLLIN == carry(_poll, one, select.POLLIN).unwrap()


def test_poll_waits(carry: Carry, pair: Pair, peers: Peers) -> None:
    """poll waits for later events, and reports the end of a peer unasked."""
    one, other = pair()
    peers.call(other.close)
    assert select.POLLHUP & carry(_poll, one, select.POLLIN).unwrap()
    peers.join()
    assert select.POLLHUP & carry(_poll, one, 0).unwrap()


def test_poll_of_a_file_is_ready_at_once(carry: Carry, fd_of: Callable[..., int]) -> None:
    """Files are always ready."""
    assert select.POLLIN == carry(_poll, fd_of("/dev/zero"), select.POLLIN).unwrap()


def test_poll_of_no_descriptor_is_an_error(carry: Carry) -> None:
    """A number that is no open descriptor gives EBADF, not POLLNVAL."""
    assert errno.EBADF == carry(_poll, 1_000_000, select.POLLIN).errno


def test_timeout_waits_for_as_long_as_it_was_told(carry: Carry) -> None:
    """A timeout takes no less than its time, and its value is 0."""
    started = time.monotonic()
    assert 0 == carry(_sleep, 0.02).unwrap()
    assert time.monotonic() - started >= 0.02 or "sim" == engine().kind


def test_timeout_of_nothing_is_over_at_once(carry: Carry) -> None:
    """A timeout that is 0 or negative ends at once."""
    for seconds in (0, 0.0, -1, -1e300, float("-inf")):
        assert 0 == carry(_sleep, seconds).unwrap()


def test_waitid_tells_how_a_child_ended(carry: Carry, child: Any) -> None:
    """waitid gives pid, status and code, of a child that exits and of one that is killed."""
    process = child("raise SystemExit(7)")
    result = carry(_wait, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (process.pid, 7, os.CLD_EXITED) == result.unwrap()
    process = child("input()\nimport signal; signal.pause()")
    process.kill()
    result = carry(_wait, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert (process.pid, signal.SIGKILL, os.CLD_KILLED) == result.unwrap()


def test_waitid_takes_the_child_away(carry: Carry, child: Any) -> None:
    """A child can be waited for once; then the error is ECHILD."""
    process = child("")
    assert carry(_wait, os.P_PID, process.pid, os.WEXITED).ok
    assert errno.ECHILD == carry(_wait, os.P_PID, process.pid, os.WEXITED).errno
    process.returncode = 0


def test_waitid_takes_a_pidfd(carry: Carry, child: Any) -> None:
    """A pidfd is an integer like any other."""
    process = child("")
    fd = os.pidfd_open(process.pid)
    try:
        result = carry(_wait, os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)
        assert (process.pid, 0, os.CLD_EXITED) == result.unwrap()
    finally:
        os.close(fd)


def test_waitid_without_waiting_finds_no_child(carry: Carry, child: Any) -> None:
    """With WNOHANG, and no child that has ended, the values are zeros, and there is no error."""
    process = child("import signal; signal.pause()")
    assert (0, 0, 0) == carry(_wait, os.P_PID, process.pid, os.WEXITED | os.WNOHANG).unwrap()


def test_waitid_says_why_it_cannot(carry: Carry) -> None:
    """No such child gives ECHILD; an unknown kind and missing options give EINVAL."""
    assert errno.ECHILD == carry(_wait, os.P_PID, os.getpid(), os.WEXITED).errno
    assert errno.EINVAL == carry(_wait, 77, 0, os.WEXITED).errno
    assert errno.EINVAL == carry(_wait, os.P_ALL, 0, 0).errno


def test_add_computes_within_64_bits(carry: Carry) -> None:
    """Negative sums are values, and sums wrap around at 64 bits."""
    assert (3 + 4 - 10, 3 + 4 - 10) == carry(_sum, 4, 5).unwrap()
    top = 2**63 - 1
    wrapped = top + 3 - 2**64
    assert (wrapped, wrapped) == carry(_sum, top, 0).unwrap()
    assert (3 - 2**63, 3 - 2**63) == carry(_sum, -(2**63), 0).unwrap()


_VALUES = {"negative": -7, "zero": 0, "positive": 7}
_STOPS = {
    Flow(0): "",
    Flow.STOP_ON_NONZERO: "negative positive",
    Flow.STOP_ON_ZERO: "zero",
    Flow.STOP_ON_NEGATIVE: "negative",
    Flow.STOP_ON_NON_POSITIVE: "negative zero",
    Flow.STOP_ON_ZERO | Flow.STOP_ON_NEGATIVE: "negative zero",
    Flow.STOP_ON_ZERO | Flow.STOP_ON_NONZERO: "negative zero positive",
}


@pytest.mark.parametrize("flags", _STOPS, ids=repr)
@pytest.mark.parametrize("value", _VALUES)
@pytest.mark.parametrize("skips", [False, True])
def test_stops_follow_the_value(carry: Carry, flags: Flow, value: str, skips: bool) -> None:
    """A stop ends the program, or skips to the next atom in the table; else flow follows `next`."""
    branch = flags | (Flow.SKIP_TO_NEXT_ON_STOP if skips else Flow(0))
    program = Syslet.from_atoms(
        [
            add(_VALUES[value], 0).with_flags(branch).then(2),
            add(100, 0).then(None),
            add(200, 0),
        ]
    )
    result = carry(program)
    if value not in _STOPS[flags]:
        expected = (200, 2)
    elif skips:
        expected = (100, 1)
    else:
        expected = (_VALUES[value], 0)
    assert (True, *expected) == (result.ok, result.value, result.atom)


@pytest.mark.parametrize("skips", [False, True])
def test_a_failure_is_a_stop_that_ends_the_program(carry: Carry, skips: bool) -> None:
    """With an atom to skip to, the failure does not end the program."""
    flags = Flow.STOP_ON_NEGATIVE | (Flow.SKIP_TO_NEXT_ON_STOP if skips else Flow(0))
    program = Syslet.from_atoms([openat("/no/where").with_flags(flags).then(None), add(5, 0)])
    result = carry(program)
    expected = (True, 5, 0, 1) if skips else (False, None, errno.ENOENT, 0)
    assert expected == (result.ok, result.value, result.errno, result.atom)


def test_the_last_atoms_error_is_the_programs(carry: Carry) -> None:
    """The error of the last atom is the program's, though no flag stops at it."""
    result = carry(Syslet.from_atoms([openat("/no/where").with_flags(Flow(0))]))
    assert (False, errno.ENOENT, 0) == (result.ok, result.errno, result.atom)


def test_unchecked_atoms_give_their_errors_as_values(carry: Carry) -> None:
    """The value is the negative errno, and the program continues."""

    @syslet
    def program(path):
        value = yield openat(path).unchecked()
        return value

    result = carry(program, "/no/where")
    assert (True, -errno.ENOENT) == (result.ok, result.value)


def test_loops_go_round_by_their_atoms_next(carry: Carry, fd_of: Callable[..., int]) -> None:
    """A cycle of a read and an addition runs until there is nothing more to read."""
    n, total = counter(), counter()
    fd = fd_of("/proc/self/cmdline")
    size = len(os.read(fd, 100_000))
    os.lseek(fd, 0, os.SEEK_SET)
    stops = Flow.STOP_ON_NON_POSITIVE | Flow.SKIP_TO_NEXT_ON_STOP
    program = Syslet.from_atoms(
        [
            read(fd, buffer(7)).with_flags(stops).into(n).then(2),
            add(total, 0).then(None),
            add(total, n).then(0),
        ]
    )
    assert size == carry(program).unwrap()


@pytest.mark.parametrize(
    "flags", [Flow(0), Flow.ASYNC, Flow.SYNC, Flow.NO_COMPLETE, Flow.ASYNC | Flow.NO_COMPLETE]
)
@pytest.mark.parametrize("first", [0, 1])
def test_how_an_atom_runs_changes_nothing_of_its_value(
    engine_kind: str, pipe: tuple[int, int], flags: Flow, first: int
) -> None:
    """ASYNC, SYNC and NO_COMPLETE on an atom do not change the results of `run` and of an await."""
    n = counter()
    data = buffer(10)
    program = Syslet.from_atoms(
        [
            write(pipe[1], b"abc").with_flags(flags if first == 0 else Flow(0)),
            read(pipe[0], data).with_flags(flags if first == 1 else Flow(0)).into(n),
            add(n, 100),
        ]
    )
    for result in (program.run(), within_deadline(program())):
        assert (True, 103, 2) == (result.ok, result.value, result.atom)


def test_no_complete_leaves_no_entry(engine_kind: str) -> None:
    """A NO_COMPLETE run is executed, but makes no entry."""
    quiet = Syslet.from_atoms([timeout(0).with_flags(Flow.ASYNC | Flow.NO_COMPLETE)])
    loud = Syslet.from_atoms([timeout(0.001).with_flags(Flow.ASYNC)])
    ring = CompletionRing()
    for program, tag in ((quiet, "quiet"), (loud, "loud")):
        assert ring.submit(program, tag=tag) is None
    assert ["loud"] == [entry.tag for entry in ring.wait(2, DEADLINE_S)]
    assert 0 == ring.outstanding


@functools.cache
def _long() -> Syslet[...]:
    n = counter()
    return Syslet.from_atoms([add(n, 1) for _ in range(600)])


def test_long_programs_run_to_their_end(carry: Carry) -> None:
    """A program may have more atoms than a run executes in one tick."""
    assert 600 == carry(_long()).unwrap()


def test_a_program_runs_any_number_of_times_at_once(engine_kind: str, pair: Pair) -> None:
    """Each run has its own variables and memory."""

    @syslet
    def echo(fd, data, n):
        total = counter()
        yield write(fd, data)
        piece = buffer(8)
        length = yield read(fd, piece)
        yield add(total, length, n)
        return piece[:length], total

    async def main() -> None:
        pairs = [pair() for _ in range(50)]
        tasks = [asyncio.create_task(echo(one, b"%d" % i, i)) for i, (one, _) in enumerate(pairs)]
        await asyncio.sleep(0)
        for (_, other), i in zip(reversed(pairs), itertools.count()):
            other.send(b"%d" % (49 - i))
        results = await asyncio.gather(*tasks)
        for i, result in enumerate(results):
            text = b"%d" % i
            assert (text, len(text) * i) == result.unwrap()

    within_deadline(main())
