"""Choosing an engine; and the simulation: repeatable, with errors, short transfers, its own time."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadlets import BufferPool, CompletionRing, Engine, _core, engine, sweep, syslet
from threadlets.atoms import (
    add,
    break_if,
    buffer,
    close,
    counter,
    loop,
    openat,
    pread,
    recv,
    send,
    timeout,
)
from threadlets.atoms import read as read_atom
from threadlets.atoms import write as write_atom
from threadlets.testing import use_engine
from waiting import eventually

from .conftest import ENGINES
from .harness import wait_for_quiet, within_deadline

Pair = Callable[..., tuple[socket.socket, socket.socket]]


@syslet
def _sleep(seconds):
    yield timeout(seconds)


@syslet
def _copy(source, target):
    src = yield openat(source)
    dst = yield openat(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    chunk = buffer(4096)
    total = counter()
    with loop():
        n = yield read_atom(src, chunk)
        break_if(n == 0)
        yield write_atom(dst, chunk[:n])
        yield add(total, n)
    yield close(src)
    yield close(dst)
    return total


@syslet
def _read_file(path):
    fd = yield openat(path)
    data = buffer(100)
    n = yield pread(fd, data, 0)
    return data[:n]


@syslet
def _echo(fd):
    data = buffer(100)
    n = yield recv(fd, data)
    yield send(fd, data[:n])
    return n


def test_engine_tells_what_it_is(engine_kind: str) -> None:
    """engine() gives the kind, the threads, the runs in flight, and why it is this kind."""
    found = engine()
    assert isinstance(found, Engine)
    assert (engine_kind, 0) == (found.kind, found.in_flight)
    assert found.threads >= 1
    assert "use_engine" in str(found.note)


@pytest.mark.needs_uring
def test_engines_take_each_others_place(nothing_leaks: None) -> None:
    """Each engine works although a ring of the one before it still exists."""
    ring = None
    for kind in ENGINES:
        with use_engine(kind, threads=2):
            assert kind == engine().kind
            results = list(sweep(_sleep, [0.0001] * 10))
            assert all(result.ok for result in results)
            ring = CompletionRing()
    del ring
    assert engine().kind in ("uring", "workers")


def test_misuse_of_use_engine_is_refused() -> None:
    """Unknown kinds, 0 threads and invalid rates are refused, and the engine stays."""
    before = engine().kind
    for wrong in (
        {"kind": "nonsense"},
        {"kind": "workers", "threads": 0},
        {"kind": "sim", "error_rate": 1.5},
        {"kind": "sim", "short_rate": -0.1},
        {"kind": "sim", "error_rate": float("nan")},
    ):
        with pytest.raises(ValueError, match=r"."), use_engine(**wrong):  # type: ignore[arg-type]
            pass
    assert before == engine().kind


@pytest.mark.parametrize("n_threads", [1, 2, 7])
def test_any_number_of_threads_will_do(clocked_engine: str, n_threads: int) -> None:
    """An engine shares its runs among any number of threads."""
    with use_engine(clocked_engine, threads=n_threads):  # type: ignore[arg-type]
        assert n_threads == engine().threads
        results = list(sweep(_sleep, [0.001] * 1000, depth=500))
        assert 1000 == sum(result.ok for result in results)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(7):
        (tmp_path / str(i)).write_text(str(i))
    return tmp_path


def _swept_order(seed: int, folder: Path) -> list[Any]:
    with use_engine("sim", seed=seed):
        paths = [folder / f"{i % 7}" for i in range(30)]
        inputs = list(enumerate(paths))
        swept = sweep(_numbered, inputs, depth=30, ordered=False)
        return [result.input[0] for result in swept]


@syslet
def _numbered(number, path):
    fd = yield openat(path)
    data = buffer(100)
    yield pread(fd, data, 0)
    return number


def test_same_seed_gives_the_same_order(nothing_leaks: None, folder: Path) -> None:
    """A seed always gives the same order, and other seeds give other orders."""
    orders = [_swept_order(seed, folder) for seed in range(8)]
    assert orders == [_swept_order(seed, folder) for seed in range(8)]
    assert len({tuple(order) for order in orders}) > 3
    assert all(list(range(30)) == sorted(order) for order in orders)


def test_same_seed_gives_the_same_failures(nothing_leaks: None, folder: Path) -> None:
    """With an error rate, a seed always gives the same errno at the same atom."""

    def failures(seed: int) -> list[tuple[int, int]]:
        with use_engine("sim", seed=seed, error_rate=0.2):
            paths = [folder / f"{i % 7}" for i in range(50)]
            return [(it.errno, it.atom) for it in sweep(_read_file, paths, depth=50)]

    assert failures(1) == failures(1)
    assert failures(1) != failures(2)
    assert any(number for number, _ in failures(1))
    assert not all(number for number, _ in failures(1))


def test_time_of_the_simulation_jumps(nothing_leaks: None) -> None:
    """A wait of a thousand seconds takes no time, and the shorter wait ends first."""
    started = time.monotonic()
    with use_engine("sim"):
        waits = [1000, 10, 500, 86_400, 1]
        results = list(sweep(_sleep, waits, ordered=False))
        assert sorted(waits) == [result.input for result in results]

        async def main() -> None:
            assert (await _sleep(100_000)).ok

        within_deadline(main())
    assert time.monotonic() - started < 5


@given(
    seed=st.integers(0, 2**64 - 1),
    error_rate=st.sampled_from([0.0, 0.05, 0.3]),
    short_rate=st.sampled_from([0.0, 0.5, 1.0]),
    size=st.integers(0, 20_000),
    n_copies=st.integers(1, 5),
)
def test_copies_fail_or_are_whole(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    error_rate: float,
    short_rate: float,
    size: int,
    n_copies: int,
) -> None:
    """With random errors and short transfers, a copy fails or is complete, and nothing leaks."""
    folder = tmp_path_factory.mktemp("copies")
    content = bytes(i % 251 for i in range(size))
    (folder / "source").write_bytes(content)
    inputs = [(folder / "source", folder / f"target{i}") for i in range(n_copies)]
    with use_engine("sim", seed=seed, error_rate=error_rate, short_rate=short_rate):
        before = len(os.listdir("/proc/self/fd"))
        for result in sweep(_copy, inputs):
            if result.ok:
                assert size == result.value
                assert content == result.input[1].read_bytes()
            else:
                assert result.errno > 0
                assert error_rate > 0
        wait_for_quiet()
        # The engine may have opened descriptors of its own meanwhile, with its first run.
        assert len(os.listdir("/proc/self/fd")) - before <= 4
    assert 0 == BufferPool.default().in_use


@given(
    seed=st.integers(0, 2**64 - 1),
    error_rate=st.sampled_from([0.0, 0.1]),
    short_rate=st.sampled_from([0.0, 0.7]),
)
def test_sockets_fail_or_are_whole(seed: int, error_rate: float, short_rate: float) -> None:
    """Echoes of ten pairs fail or are complete, in an order that the seed decides."""
    pairs = [socket.socketpair() for _ in range(10)]
    try:
        for i, (_, other) in enumerate(pairs):
            other.send(b"%d" % i)
        with use_engine("sim", seed=seed, error_rate=error_rate, short_rate=short_rate):
            for i, result in enumerate(sweep(_echo, [one for one, _ in pairs])):
                if result.ok and short_rate == 0:
                    assert b"%d" % i == pairs[i][1].recv(100)
                else:
                    assert result.ok or error_rate > 0
            wait_for_quiet()
    finally:
        for one, other in pairs:
            one.close()
            other.close()


def test_engine_that_is_stopped_ends_what_it_has(engine_kind: str, pair: Pair) -> None:
    """Tasks get ECANCELED as a value; the next use starts another engine."""

    async def main() -> None:
        task = asyncio.create_task(_echo(pair()[0]))
        await eventually(lambda: engine().in_flight)
        _core.stop_engine()
        result = await task
        assert not result.ok
        assert (await _sleep(0.0001)).ok

    within_deadline(main())
