"""Sweeps: order, depth, memory, progress, errors as values, and iterating in a loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import random
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets import BufferPool, engine, sweep, syslet
from threadlets.atoms import buffer, close, nop, openat, pread, read, recv, send, timeout
from waiting import eventually, wait_until

from .harness import DEADLINE_S, Peers, within_deadline

Pair = Callable[..., tuple[socket.socket, socket.socket]]


@syslet
def _sleep(seconds):
    yield timeout(seconds)


@syslet
def _nothing(_number):
    yield nop()
    return _number


@syslet
def _read_small(path):
    fd = yield openat(path)
    data = buffer(100)
    n = yield read(fd, data)
    yield close(fd)
    return data[:n]


@syslet
def _read_part(fd, offset, size=3):
    data = buffer(size)
    n = yield pread(fd, data, offset)
    return data[:n]


@syslet
def _recv(fd):
    data = buffer(10)
    n = yield recv(fd, data)
    return data[:n]


@syslet
def _recv_into(fd, memory):
    n = yield recv(fd, memory)
    return n


@syslet
def _enter_and_wait(arrivals, gate):
    """Tell that the run has begun, and wait for a byte from the gate."""
    yield send(arrivals, b"x")
    data = buffer(1)
    yield recv(gate, data)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / str(i) for i in range(300)]
    for path in paths:
        path.write_text(path.name)
    return paths


@pytest.mark.parametrize("depth", [1, 7, 128, 1000])
def test_results_come_in_the_order_of_the_inputs(
    engine_kind: str, files: list[Path], depth: int
) -> None:
    """The order in which runs end does not matter; each result has its input."""
    results = list(sweep(_read_small, files, depth=depth))
    assert [path.name.encode() for path in files] == [result.unwrap() for result in results]
    assert files == [result.input for result in results]


def test_slow_runs_keep_their_place(clocked_engine: str) -> None:
    """Results that are ready early wait for those before them."""
    waits = [random.Random(1).random() / 100 for _ in range(100)]
    assert waits == [result.input for result in sweep(_sleep, waits, depth=20)]


def test_unordered_results_come_as_they_end(clocked_engine: str) -> None:
    """Results come in the order in which runs end; none is missing, and none comes twice."""
    waits = [0.3, 0.0, 0.1, 0.2]
    results = [result.input for result in sweep(_sleep, waits, ordered=False)]
    assert sorted(waits) == results
    many = list(range(1000))
    given = [result.value for result in sweep(_nothing, many, depth=64, ordered=False)]
    assert many == sorted(given)


@pytest.mark.parametrize("depth", [1, 2, 5, 100])
def test_no_more_runs_are_under_way_than_the_depth(
    engine_kind: str, pair: Pair, depth: int
) -> None:
    """Each run tells that it has begun, and ends when it is allowed to."""
    arrivals, arrived = pair(socket.SOCK_DGRAM)
    gate, opener = pair(socket.SOCK_DGRAM)
    inputs = [(arrivals.fileno(), gate.fileno())] * 40
    native = sweep(_enter_and_wait, inputs, depth=depth, ordered=False)._native
    arrived.setblocking(False)
    most = n_here = n_done = n_let_go = 0
    while (batch := native.next_batch_nowait()) is not None:
        n_done += len(batch)
        n_here -= len(batch)
        with contextlib.suppress(BlockingIOError):
            while arrived.recv(10):
                n_here += 1
        most = max(most, n_here)
        assert engine().in_flight <= depth
        if n_let_go - n_done < n_here:
            opener.send(b"x")
            n_let_go += 1
    assert 40 == n_done
    assert 0 < most <= depth


def test_inputs_are_not_taken_before_there_is_room(engine_kind: str, pair: Pair) -> None:
    """A sweep takes no input before it is consumed, and none beyond its depth while it waits."""
    one, other = pair(socket.SOCK_DGRAM)
    n_taken = 0

    def inputs() -> Iterator[int]:
        nonlocal n_taken
        for _ in range(100):
            n_taken += 1
            yield one.fileno()

    swept = sweep(_recv, inputs(), depth=10, ordered=False)
    assert 0 == n_taken
    assert [] == swept._native.next_batch_nowait()
    assert 10 == n_taken
    other.send(b"x")
    assert b"x" == next(swept).unwrap()
    assert n_taken <= 12
    swept.close()


def test_memory_does_not_grow_with_the_number_of_inputs(engine_kind: str) -> None:
    """A million inputs use no more memory at their end than after some thousands."""
    swept = sweep(_nothing, iter(range(1_000_000)), depth=256)
    n_done, early = 0, 0
    tracemalloc.start()
    try:
        for batch in swept.batches():
            n_done += len(batch)
            if not early and n_done > 20_000:
                early = _resident()
                traced, _ = tracemalloc.get_traced_memory()
                tracemalloc.stop()
        late = _resident()
    finally:
        tracemalloc.stop()
    assert 1_000_000 == n_done
    assert traced < 10_000_000
    assert late - early < 30_000_000


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def test_progress_is_told(engine_kind: str) -> None:
    """`progress` gets the number of results, and the number of inputs where that is known."""
    told: list[tuple[int, int | None]] = []
    list(sweep(_nothing, range(500), progress=lambda *it: told.append(it)))
    assert (500, 500) == told[-1]
    assert sorted(told) == told
    list(sweep(_nothing, iter(range(5)), progress=lambda *it: told.append(it)))
    assert (5, None) == told[-1]


def test_buffers_come_from_the_given_pool(engine_kind: str, files: list[Path]) -> None:
    """No buffer comes from the default pool, and all buffers return to the given one."""
    pool = BufferPool(1 << 20)
    assert all(result.ok for result in sweep(_read_small, files, depth=10, pool=pool))
    assert 0 == pool.in_use
    assert pool.kept > 0


def test_failures_are_results(engine_kind: str, files: list[Path]) -> None:
    """A failure has its place among the results, and the other runs continue."""
    paths = list(files)
    paths[3:3] = [Path("/no/where")]
    results = list(sweep(_read_small, paths, depth=8))
    assert [errno.ENOENT] == [result.errno for result in results if not result.ok]
    assert errno.ENOENT == results[3].errno


def test_what_the_inputs_raise_comes_after_the_results_before(engine_kind: str) -> None:
    """An exception of the inputs is raised once, and ends the sweep."""

    def inputs() -> Iterator[int]:
        yield from range(10)
        raise LookupError("no more")

    swept = sweep(_nothing, inputs(), depth=3)
    given = []
    with pytest.raises(LookupError, match="no more"):
        given.extend(result.value for result in swept)
    assert list(range(10)) == given
    assert [] == list(swept)


def test_input_of_the_wrong_kind_comes_after_the_results_before(engine_kind: str) -> None:
    """A TypeError names the argument."""
    given = []
    with pytest.raises(TypeError, match="_number"):
        given.extend(result.value for result in sweep(_nothing, [1, 2, "3", 4]))
    assert [1, 2] == given


def test_misuse_of_sweeps_is_refused() -> None:
    """A depth below 1 and inputs that are no iterable are refused."""
    for depth in (0, -1, False):
        with pytest.raises(ValueError, match=f"depth is {depth}"):
            sweep(_nothing, [], depth=depth)
    for wrong in (1.0, None, "1"):
        with pytest.raises(TypeError):
            sweep(_nothing, [], depth=wrong)  # type: ignore[arg-type]
    for depth in (True, 2**63 - 1, 2**64, 2**70):
        assert 200 == len(list(sweep(_nothing, range(200), depth=depth)))
    with pytest.raises(TypeError):
        sweep(_nothing, 5)  # type: ignore[arg-type]


def test_no_inputs_give_no_results(engine_kind: str) -> None:
    """A sweep without inputs gives no results to `for` and to `async for`."""
    assert [] == list(sweep(_nothing, []))

    async def main() -> list[object]:
        return [result async for result in sweep(_nothing, [])]

    assert [] == within_deadline(main())


def test_inputs_are_arguments_or_tuples_of_them(engine_kind: str, files: list[Path]) -> None:
    """Defaults stand for what is left out."""
    fd = os.open(files[123], os.O_RDONLY)
    try:
        results = sweep(_read_part, [(fd, 0), (fd, 1), (fd, 0, 2)])
        assert [b"123", b"23", b"12"] == [result.unwrap() for result in results]
    finally:
        os.close(fd)


def test_runs_that_are_used_again_begin_anew(engine_kind: str, tmp_path: Path) -> None:
    """Variables, defaults and memory of an earlier input do not show."""
    (tmp_path / "long").write_bytes(b"s" * 100)
    (tmp_path / "short").write_bytes(b"ab")

    @syslet
    def whole(path, size=100):
        fd = yield openat(path)
        data = buffer(100)
        n = yield read(fd, data[:size])
        return n, data

    inputs: list[Any] = [(tmp_path / "long",), (tmp_path / "short", 1), (tmp_path / "short",)] * 50
    expected = [(100, b"s" * 100), (1, b"a" + bytes(99)), (2, b"ab" + bytes(98))] * 50
    assert expected == [result.unwrap() for result in sweep(whole, inputs, depth=4)]


def test_lent_memory_comes_back_with_its_result(engine_kind: str, pair: Pair) -> None:
    """Lent memory can be resized when its result is there, before the sweep ends."""
    one, other = pair(socket.SOCK_DGRAM)
    memories = [bytearray(10) for _ in range(20)]
    for i in range(20):
        other.send(b"%d" % i)
    swept = sweep(_recv_into, [(one, memory) for memory in memories], depth=1)
    for memory, result in zip(memories[:10], swept, strict=False):
        assert result.ok
        memory.append(0)
    swept.close()
    gc.collect()


def test_other_tasks_run_while_a_sweep_is_iterated_over(engine_kind: str) -> None:
    """No program blocks here: a time slice is about a millisecond, or some 2,000 results."""

    async def main() -> None:
        n_steps = 0

        async def other() -> None:
            nonlocal n_steps
            while True:
                n_steps += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        n_done = 0
        async for _ in sweep(_nothing, range(100_000)):
            n_done += 1
        task.cancel()
        assert 100_000 == n_done
        assert n_steps > 10

    within_deadline(main())


def test_results_in_a_loop_come_in_order_too(engine_kind: str, files: list[Path]) -> None:
    """An `async for` gives results one by one, or in batches."""

    async def main() -> None:
        names = [path.name.encode() for path in files]
        assert names == [it.value async for it in sweep(_read_small, files, depth=9)]
        batches = sweep(_read_small, files, depth=9).batches_async()
        assert names == [it.value async for batch in batches for it in batch]

    within_deadline(main())


def test_several_sweeps_go_on_at_once(engine_kind: str, files: list[Path]) -> None:
    """Sweeps run side by side in tasks of one loop, and in threads."""

    async def main() -> None:
        async def one() -> list[bytes]:
            return [result.unwrap() async for result in sweep(_read_small, files, depth=5)]

        results = await asyncio.gather(*(one() for _ in range(5)))
        assert [[path.name.encode() for path in files]] * 5 == results

    within_deadline(main())
    peers = Peers()
    names = [path.name.encode() for path in files]

    def thread() -> None:
        assert names == [result.unwrap() for result in sweep(_read_small, files, depth=5)]

    for _ in range(4):
        peers.call(thread)
    peers.join()


def test_sweep_waits_without_the_interpreter(engine_kind: str, pair: Pair, peers: Peers) -> None:
    """Another thread sends what the sweep waits for."""
    one, other = pair(socket.SOCK_DGRAM)
    peers.call(lambda: [other.send(b"%d" % i) for i in range(9)])
    results = list(sweep(_recv, [one] * 9, ordered=False))
    assert [b"%d" % i for i in range(9)] == sorted(result.unwrap() for result in results)


def test_runs_are_cut_off_after_their_time(clocked_engine: str, pair: Pair) -> None:
    """A run that exceeds the timeout gives ETIMEDOUT as its result; the others succeed."""
    one, _ = pair()
    results = list(sweep(_sleep, [0, 1000, 0], timeout=0.01))
    assert [0, errno.ETIMEDOUT, 0] == [result.errno for result in results]
    (result,) = sweep(_recv, [one], timeout=0.01)
    assert errno.ETIMEDOUT == result.errno


def test_sweeps_whose_inputs_are_sweeps_are_no_problem(engine_kind: str) -> None:
    """The results of one sweep may be the inputs of another."""
    inner = (result.value for result in sweep(_nothing, range(1000), depth=3))
    assert list(range(1000)) == [it.value for it in sweep(_nothing, inner, depth=5)]


def test_sweep_of_a_loop_that_ends_is_given_up(clocked_engine: str) -> None:
    """The loop's run ends in the middle of an `async for`."""

    async def results() -> AsyncIterator[object]:
        async for result in sweep(_sleep, itertools.repeat(1000)):
            yield result

    async def main() -> None:
        task = asyncio.create_task(anext(results()))
        await eventually(lambda: engine().in_flight > 0)
        del task

    threadlets.run(main())
    gc.collect()
    wait_until(lambda: engine().in_flight == 0)


def test_sweep_that_one_thread_begins_is_ended_by_another(engine_kind: str) -> None:
    """A sweep belongs to no thread."""
    swept = sweep(_nothing, range(1000), depth=10)
    first = [next(swept).value for _ in range(10)]
    rest: list[int] = []
    thread = threading.Thread(target=lambda: rest.extend(result.value for result in swept))
    thread.start()
    thread.join(DEADLINE_S)
    assert list(range(1000)) == first + rest


@syslet
def _hand_over(path):
    fd = yield openat(path)
    return fd


@pytest.mark.parametrize("iterates", [False, True])
@pytest.mark.parametrize("in_a_loop", [False, True])
def test_a_closed_sweep_holds_no_descriptor(
    engine_kind: str, tmp_path: Path, iterates: bool, in_a_loop: bool
) -> None:
    """Its untaken results hold none either, also those of runs that end when it is closed."""
    (tmp_path / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    results = sweep(_hand_over, [str(tmp_path / "file")] * 300, depth=200)

    async def take_one() -> None:
        async for result in results:
            os.close(result.value)
            break

    if iterates and in_a_loop:
        threadlets.run(take_one())
    elif iterates:
        os.close(next(results).value)
    results.close()
    wait_until(lambda: engine().in_flight == 0)
    # The engine has descriptors of its own open, too.
    stopped = len(os.listdir("/proc/self/fd")) - before
    assert stopped < 50
    assert [] == list(results)
