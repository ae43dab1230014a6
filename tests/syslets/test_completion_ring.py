"""Completion rings: results at once, entries, waiting, overflow, and flags."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from threadlets import BufferPool, CompletionRing, engine, syslet
from threadlets.atoms import Flow, buffer, nop, openat, recv, send, timeout
from threadlets.testing import use_engine
from waiting import eventually, wait_until

from .harness import DEADLINE_S, Peers, within_deadline

Pair = Callable[..., tuple[socket.socket, socket.socket]]


@syslet
def _sleep(seconds):
    yield timeout(seconds)


@syslet
def _nop():
    yield nop()
    return 7


@syslet
def _recv(fd):
    data = buffer(10)
    n = yield recv(fd, data)
    return data[:n]


@syslet
def _send(fd, data):
    n = yield send(fd, data)
    return n


@syslet
def _open(path):
    fd = yield openat(path)
    return fd


def _tags(entries: list[object]) -> list[object]:
    return [entry.tag for entry in entries]  # type: ignore[attr-defined]


def test_what_ends_at_once_makes_no_entry(clocked_engine: str) -> None:
    """`submit` returns the result of a program that ends at once, and raises on misuse."""
    ring = CompletionRing()
    assert 7 == ring.submit(_nop).unwrap()  # type: ignore[union-attr]
    assert ([], 0) == (ring.wait(0), ring.outstanding)
    assert [] == ring.wait(1)
    with pytest.raises(TypeError):
        ring.submit(_sleep, "x")
    assert 0 == ring.outstanding


def test_what_waits_makes_an_entry(engine_kind: str, pair: Pair) -> None:
    """An entry has its tag, which may be any object, and its result."""
    one, other = pair()
    ring, tag = CompletionRing(), {"not": ["hashable"]}
    assert ring.submit(_recv, one, tag=tag) is None
    assert 1 == ring.outstanding
    other.send(b"abc")
    ((given, result),) = ring.wait(1, DEADLINE_S)
    assert tag is given
    assert b"abc" == result.unwrap()
    assert 0 == ring.outstanding


def test_entries_come_in_the_order_in_which_programs_end(clocked_engine: str) -> None:
    """Entries come in the order in which programs end, not in that of submitting."""
    ring = CompletionRing()
    for seconds in (0.09, 0.03, 0.06, 0.0001):
        assert ring.submit(_sleep, seconds, tag=seconds) is None
    entries = ring.wait(4, DEADLINE_S)
    assert [0.0001, 0.03, 0.06, 0.09] == _tags(entries)


def test_different_programs_share_a_ring(engine_kind: str, pair: Pair) -> None:
    """Programs of sockets and of timers can use one ring."""
    one, other = pair()
    ring = CompletionRing()
    ring.submit(_recv, one, tag="recv")
    ring.submit(_sleep, 0.001, tag="sleep")
    ring.submit(_send, other, b"x", tag="send", flags=Flow.ASYNC)
    assert Counter(recv=1, sleep=1, send=1) == Counter(_tags(ring.wait(3, DEADLINE_S)))


def test_wait_takes_all_that_are_there(engine_kind: str) -> None:
    """`wait` returns all entries that are there, even if fewer were asked for."""
    ring = CompletionRing()
    for i in range(50):
        ring.submit(_sleep, 0.0001, tag=i, flags=Flow.ASYNC)
    wait_until(lambda: engine().in_flight == 0)
    assert set(range(50)) == set(_tags(ring.wait(1, DEADLINE_S)))


def test_wait_ends_after_its_time(engine_kind: str, pair: Pair) -> None:
    """`wait` returns what there is when its time is over; a negative time means not to wait."""
    ring = CompletionRing()
    ring.submit(_recv, pair()[0])
    for seconds in (0.01, 0, -1):
        assert [] == ring.wait(1, seconds)
    assert 1 == ring.outstanding
    ring.cancel()
    assert 1 == len(ring.wait(1, DEADLINE_S))


def test_wait_gives_less_when_no_more_can_come(engine_kind: str) -> None:
    """`wait` does not wait for ever for entries that cannot come."""
    ring = CompletionRing()
    ring.submit(_sleep, 0.0001, flags=Flow.ASYNC)
    assert 1 == len(ring.wait(5))
    assert [] == ring.wait(5)


def test_ring_that_overflows_loses_no_entry(engine_kind: str) -> None:
    """Entries beyond the ring's size are counted, and come later."""
    ring = CompletionRing(4)
    for i in range(100):
        ring.submit(_sleep, 0.0001, tag=i, flags=Flow.ASYNC)
    wait_until(lambda: engine().in_flight == 0)
    found: list[object] = []
    while entries := ring.wait(1, 1):
        assert len(entries) <= 4
        found += _tags(entries)
    assert list(range(100)) == sorted(found)  # type: ignore[type-var]
    assert 96 == ring.overflowed
    assert 0 == ring.outstanding


def test_misuse_of_rings_is_refused() -> None:
    """A size of 0, more events than the size, and flags without a meaning here are refused."""
    with pytest.raises(ValueError, match="size is 0"):
        CompletionRing(0)
    ring = CompletionRing(3)
    for n in (-1, 4):
        with pytest.raises(ValueError, match="min_events"):
            ring.wait(n)
    for flags in (Flow.STOP_ON_ZERO, Flow.SKIP_TO_NEXT_ON_STOP, Flow.ASYNC | Flow.SYNC):
        with pytest.raises(ValueError, match="ASYNC"):
            ring.submit(_nop, flags=flags)


def test_flags_say_how_a_program_runs(engine_kind: str) -> None:
    """ASYNC always makes an entry, SYNC never does, and NO_COMPLETE suppresses it."""
    ring = CompletionRing()
    assert ring.submit(_nop, tag="async", flags=Flow.ASYNC) is None
    assert ["async"] == _tags(ring.wait(1, DEADLINE_S))
    assert ring.submit(_sleep, 0.001, flags=Flow.SYNC).ok  # type: ignore[union-attr]
    assert ring.submit(_sleep, 0.0001, tag="silent", flags=Flow.ASYNC | Flow.NO_COMPLETE) is None
    assert [] == ring.wait(1, DEADLINE_S)
    assert 0 == ring.outstanding


def test_silent_programs_hand_no_descriptors_over(engine_kind: str) -> None:
    """A silent run closes the descriptor that it would return."""
    ring = CompletionRing()
    ring.submit(_open, "/dev/null", flags=Flow.ASYNC | Flow.NO_COMPLETE)
    assert [] == ring.wait(1, DEADLINE_S)


def test_buffers_come_from_the_given_pool(engine_kind: str, pair: Pair) -> None:
    """Each program takes its buffers from the pool that it was submitted with."""
    pool, ring = BufferPool(512), CompletionRing()
    one, other = pair()
    ring.submit(_recv, one, pool=pool, flags=Flow.ASYNC)
    wait_until(lambda: pool.in_use == 512)
    entry = ring.submit(_recv, one, pool=pool)
    if entry is None:
        ((_, entry),) = ring.wait(1, DEADLINE_S)
    assert errno.ENOBUFS == entry.errno
    other.send(b"x")
    assert 1 == len(ring.wait(1, DEADLINE_S))
    assert 0 == pool.in_use


def test_programs_are_cut_off_after_their_time(clocked_engine: str, pair: Pair) -> None:
    """A program that exceeds its timeout makes an entry with ETIMEDOUT."""
    ring = CompletionRing()
    ring.submit(_recv, pair()[0], timeout=0.01)
    ((_, result),) = ring.wait(1, DEADLINE_S)
    assert errno.ETIMEDOUT == result.errno


def test_any_thread_may_submit(engine_kind: str, peers: Peers) -> None:
    """Several threads submit, and another one takes the entries."""
    ring = CompletionRing()

    def submit(first: int) -> None:
        for tag in range(first, first + 100):
            assert ring.submit(_sleep, 0.0001, tag=tag, flags=Flow.ASYNC) is None

    for first in range(0, 500, 100):
        peers.call(submit, first)
    peers.join()
    found: list[int] = []
    while len(found) < 500:
        entries = ring.wait(1, DEADLINE_S)
        assert entries
        found += _tags(entries)  # type: ignore[arg-type]
    assert list(range(500)) == sorted(found)


def test_several_threads_wait_for_one_ring(engine_kind: str, pair: Pair) -> None:
    """Each waiting thread gets its entry, however many come at once."""
    one, other = pair(socket.SOCK_DGRAM)
    ring = CompletionRing()
    for i in range(4):
        ring.submit(_recv, one, tag=i)
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.extend(ring.wait(1, 10)), daemon=True)
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    other.send(b"a")
    wait_until(lambda: len(found) >= 1)
    other.send(b"b")
    for thread in threads:
        thread.join(5)
    assert 2 == len(found)
    ring.cancel()
    assert 2 == len(ring.wait(2, DEADLINE_S))


def test_several_tasks_wait_for_one_ring(engine_kind: str, pair: Pair) -> None:
    """Each waiting task gets its entry."""
    one, other = pair(socket.SOCK_DGRAM)

    async def main() -> None:
        ring = CompletionRing()
        for i in range(3):
            ring.submit(_recv, one, tag=i)
        tasks = [asyncio.create_task(ring.async_wait(1)) for _ in range(3)]
        await asyncio.sleep(0)
        for n_done in range(1, 4):
            other.send(b"x")
            async with asyncio.timeout(5):
                await eventually(lambda n=n_done: sum(it.done() for it in tasks) >= n)
        assert 3 == sum(len(task.result()) for task in tasks)

    within_deadline(main())


def test_waiting_task_lets_others_go_on(engine_kind: str, pair: Pair) -> None:
    """While a task waits for an entry, a callback runs and sends what the program waits for."""
    one, other = pair()

    async def main() -> None:
        ring = CompletionRing()
        ring.submit(_recv, one, tag="tag")
        asyncio.get_running_loop().call_soon(other.send, b"abc")
        ((tag, result),) = await ring.async_wait(1)
        assert ("tag", b"abc") == (tag, result.unwrap())
        assert [] == await ring.async_wait(1)

    within_deadline(main())


def test_cancelled_wait_loses_no_entry(engine_kind: str, pair: Pair) -> None:
    """The next wait gets the entries, in a task or in a thread; they count as outstanding."""
    one, other = pair(socket.SOCK_DGRAM)

    async def main() -> None:
        for waits_in_thread in (False, True):
            ring = CompletionRing()
            for i in range(3):
                ring.submit(_recv, one, tag=i)
            for _ in range(2):
                other.send(b"x")
            await eventually(lambda: engine().in_flight == 1)
            task = asyncio.create_task(ring.async_wait(3))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert 3 == ring.outstanding
            entries = ring.wait(2, 1) if waits_in_thread else await ring.async_wait(2)
            assert 2 == len(entries)
            ring.cancel()
            assert 1 == len(await ring.async_wait(1))

    within_deadline(main())


@pytest.fixture
def alarm() -> Iterator[type[Exception]]:
    class Alarm(Exception):
        pass

    def on_alarm(*_args: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, on_alarm)
    yield Alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_interrupted_wait_loses_no_entry(
    engine_kind: str, pair: Pair, alarm: type[Exception]
) -> None:
    """A signal handler raises in a wait for two entries, while one of them is there."""
    one, other = pair(socket.SOCK_DGRAM)
    ring = CompletionRing()
    ring.submit(_recv, one, tag="first")
    ring.submit(_recv, one, tag="second")
    other.send(b"x")
    wait_until(lambda: engine().in_flight == 1)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    with pytest.raises(alarm):
        ring.wait(2)
    assert 1 == len(ring.wait(1, 1))
    other.send(b"x")
    assert 1 == len(ring.wait(1, DEADLINE_S))


def test_given_up_ring_ends_its_programs(engine_kind: str, pair: Pair) -> None:
    """Dropping the last reference ends the programs; close() also waits for their end."""
    ring = CompletionRing()
    ring.submit(_recv, pair()[0])
    assert 1 == engine().in_flight
    del ring
    wait_until(lambda: engine().in_flight == 0)
    ring = CompletionRing()
    ring.submit(_recv, pair()[0])
    ring.close()
    assert 0 == engine().in_flight
    assert [] == ring.wait(1, 1)


def test_ring_outlives_its_engine(nothing_leaks: None) -> None:
    """Runs in flight end with ECANCELED; a program that is submitted later runs or raises."""
    with use_engine("workers"):
        ring = CompletionRing()
        ring.submit(_sleep, 1000, tag="old")
    ((tag, result),) = ring.wait(1, 1)
    assert ("old", errno.ECANCELED) == (tag, result.errno)
    try:
        started = ring.submit(_sleep, 0.001, tag="new")
    except RuntimeError:
        return
    assert started is None
    assert ["new"] == _tags(ring.wait(1, 5))


def test_many_entries_take_little_time(engine_kind: str) -> None:
    """Ten thousand entries take less than ten seconds."""
    ring = CompletionRing()
    started = time.monotonic()
    for i in range(10_000):
        ring.submit(_nop, tag=i, flags=Flow.ASYNC)
    n_found = 0
    while n_found < 10_000:
        entries = ring.wait(1, DEADLINE_S)
        assert entries
        n_found += len(entries)
    assert time.monotonic() - started < 10


def test_descriptors_in_entries_that_are_not_taken_are_closed(engine_kind: str) -> None:
    """Dropping a ring closes the descriptors in its untaken entries."""
    ring = CompletionRing()
    for _ in range(10):
        ring.submit(_open, "/dev/null", flags=Flow.ASYNC)
    wait_until(lambda: engine().in_flight == 0)
    del ring


def test_what_is_refused_is_not_under_way(clocked_engine: str) -> None:
    """An invalid timeout is refused before anything begins, and nothing is outstanding."""
    with CompletionRing() as ring:
        for wrong in (0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="timeout is"):
                ring.submit(_sleep, 0.001, timeout=wrong)
        assert 0 == ring.outstanding
        for wrong in (1.0, None):
            with pytest.raises(TypeError):
                ring.wait(wrong)  # type: ignore[arg-type]
