"""Requests with different floating-point states on one loop, and how many of their results are wrong.

``python -m benches.fp_torture PEER N_OPERATIONS``

Thousands of requests alternate: dot products and intervals in directed roundings, denormals,
exceptions, `errno`, copies of memory; between the steps they suspend, send and receive, or block in
functions. Some set the rounding mode and never restore it, some are cancelled. Every step is compared
bit for bit with MPFR's result. An operation is one rounded multiplication or addition.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ctypes.util
import json
import random
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from threadlets import fp

PEERS = ("threadlets", "asyncio", "uvloop", "trio", "gevent")

_N_STEPS = 64
_N_TERMS = 8
_N_VECTORS = 16
_N_AT_ONCE = 500
_FE_UPWARD = 0x800 if sys.platform == "linux" else 0

#: What a request asks of its driver between two steps.
SUSPEND, EXCHANGE, BLOCK = "suspend", "exchange", "block"
Steps = Generator[str, None, None]

_libm = ctypes.CDLL(ctypes.util.find_library("m"))


@dataclass
class Tally:
    """Counts of operations, results and wrong results."""

    n_operations: int = 0
    n_results: int = 0
    n_wrong: int = 0
    n_takeovers: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)

    def compare(self, kind: str, is_right: bool, n_operations: int = 0) -> None:
        """Count one result."""
        self.n_operations += n_operations
        self.n_results += 1
        if not is_right:
            self.n_wrong += 1
            self.by_kind[kind] = self.by_kind.get(kind, 0) + 1


class Vectors:
    """Pairs of vectors, and by rounding mode the sum after each step of their dot product."""

    def __init__(self, generator: random.Random) -> None:
        self.pairs = [_pair(generator, scale) for scale in (1.0, 1e-160) for _ in range(_N_VECTORS)]
        self.sums = {
            name: [_reference(pair, name) for pair in self.pairs]
            for name in ("nearest", "upward", "downward", "toward-zero")
        }


def _pair(generator: random.Random, scale: float) -> list[list[tuple[float, float]]]:
    # Products of small numbers are denormal, so that flushing to zero gives a wrong result.
    return [
        [
            (generator.uniform(-scale, scale), generator.uniform(-scale, scale))
            for _ in range(_N_TERMS)
        ]
        for _ in range(_N_STEPS)
    ]


def _reference(pair: list[list[tuple[float, float]]], rounding: str) -> list[float]:
    """Compute the sum after each step by MPFR, in the format of a double."""
    import gmpy2

    modes = {
        "nearest": gmpy2.RoundToNearest,
        "upward": gmpy2.RoundUp,
        "downward": gmpy2.RoundDown,
        "toward-zero": gmpy2.RoundToZero,
    }
    context = gmpy2.context(
        precision=53, emin=-1073, emax=1024, subnormalize=True, round=modes[rounding]
    )
    with gmpy2.context(context) as exact:
        total = gmpy2.mpfr(0)
        sums = []
        for terms in pair:
            for left, right in terms:
                product = exact.mul(gmpy2.mpfr(left), gmpy2.mpfr(right))
                total = exact.add(total, product)
            sums.append(float(total))
    return sums


def _step(total: float, terms: list[tuple[float, float]]) -> float:
    for left, right in terms:
        total += left * right
    return total


class Requests:
    """Requests of all kinds, in an order that a seed decides."""

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)
        self._vectors = Vectors(random.Random(7))
        self._environments = {
            name: fp.environment(rounding=name)  # type: ignore[arg-type]
            for name in ("nearest", "upward", "downward", "toward-zero")
        }
        self.tally = Tally()
        self._kinds: list[Callable[[], Steps]] = [
            *[self._dot] * 3,
            *[self._plain] * 3,
            *[self._interval] * 2,
            self._careless,
            self._errno,
            self._copies,
            self._flags,
        ]

    def next(self) -> tuple[Steps, bool]:
        """Make a request; return its steps, and whether it is to be cancelled while it runs."""
        kind = self._generator.choice(self._kinds)
        return kind(), self._generator.random() < 0.05

    def _between(self) -> str:
        drawn = self._generator.random()
        return BLOCK if drawn < 0.002 else EXCHANGE if drawn < 0.05 else SUSPEND

    def _dot(self) -> Steps:
        name = self._generator.choice(("upward", "downward", "toward-zero"))
        with self._environments[name]:
            yield from self._sum("dot product, " + name, name)

    def _plain(self) -> Steps:
        yield from self._sum("dot product, nearest", "nearest")

    def _sum(self, kind: str, name: str) -> Steps:
        number = self._generator.randrange(2 * _N_VECTORS)
        total = 0.0
        pairs = zip(self._vectors.pairs[number], self._vectors.sums[name][number], strict=True)
        for terms, expected in pairs:
            total = _step(total, terms)
            self.tally.compare(kind, total == expected, 2 * _N_TERMS)
            total = expected
            yield self._between()

    def _interval(self) -> Steps:
        number = self._generator.randrange(2 * _N_VECTORS)
        lower = upper = 0.0
        lowers, uppers = (self._vectors.sums[it][number] for it in ("downward", "upward"))
        with self._environments["downward"]:
            for idx, terms in enumerate(self._vectors.pairs[number]):
                lower = _step(lower, terms)
                self.tally.compare("interval, lower", lower == lowers[idx], 2 * _N_TERMS)
                with self._environments["upward"]:
                    yield self._between()
                    upper = _step(upper, terms)
                    self.tally.compare("interval, upper", upper == uppers[idx], 2 * _N_TERMS)
                lower, upper = lowers[idx], uppers[idx]
                yield self._between()

    def _careless(self) -> Steps:
        for _ in range(4):
            _libm.fesetround(_FE_UPWARD)
            yield self._between()

    def _errno(self) -> Steps:
        mine = self._generator.randrange(1, 100)
        ctypes.set_errno(mine)
        for _ in range(8):
            yield self._between()
            self.tally.compare("errno", ctypes.get_errno() == mine)
            ctypes.set_errno(mine)

    def _copies(self) -> Steps:
        source = self._generator.randbytes(4096)
        target = ctypes.create_string_buffer(4096)
        for start in range(0, 4096, 512):
            ctypes.memmove(ctypes.byref(target, start), source[start:], 512)
            yield self._between()
        self.tally.compare("memcpy", target.raw == source)

    def _flags(self) -> Steps:
        large = self._generator.uniform(1e200, 1e300)
        with fp.flags() as seen:
            yield self._between()
            overflows = self._generator.random() < 0.5
            if overflows:
                large * large
            yield self._between()
        self.tally.compare("flags", seen.overflow == overflows and not seen.invalid)
        # Raise a flag that no other request must see.
        float("inf") - float("inf")


# -- drivers ---------------------------------------------------------------------------------------


def _blocks() -> None:
    time.sleep(0.0005)


def _waves(requests: Requests, n_operations: int) -> Iterator[list[tuple[Steps, bool]]]:
    """Yield groups of requests that run at once, until enough operations were performed."""
    while requests.tally.n_operations < n_operations:
        yield [requests.next() for _ in range(_N_AT_ONCE)]


async def _on_asyncio(requests: Requests, n_operations: int) -> None:
    loop = asyncio.get_running_loop()
    to_thread = asyncio.to_thread
    if type(loop).__module__.startswith("threadlets"):
        import threadlets

        to_thread = threadlets.call  # type: ignore[assignment]
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    exchanging = asyncio.Lock()

    async def drive(steps: Steps) -> None:
        with contextlib.closing(steps):
            for wish in steps:
                if wish == SUSPEND:
                    await asyncio.sleep(0)
                elif wish == BLOCK:
                    await to_thread(_blocks)
                else:
                    async with exchanging:
                        received = asyncio.ensure_future(loop.sock_recv(theirs, 1))
                        try:
                            await asyncio.sleep(0)
                            await loop.sock_sendall(ours, b"x")
                            await received
                        finally:
                            # A cancelled task must not leave a receiver that takes the next byte.
                            received.cancel()

    for wave in _waves(requests, n_operations):
        tasks = [asyncio.create_task(drive(steps)) for steps, _ in wave]
        await asyncio.sleep(0)
        for task, (_, is_cancelled) in zip(tasks, wave, strict=True):
            if is_cancelled:
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
    ours.close()
    theirs.close()
    if to_thread is not asyncio.to_thread:
        stats = threadlets.stats()
        requests.tally.n_takeovers = sum(stats[it] for it in stats if it.startswith("takeovers"))


async def _on_trio(requests: Requests, n_operations: int) -> None:
    import trio

    async def drive(steps: Steps, scope: trio.CancelScope) -> None:
        with scope, contextlib.closing(steps):
            for wish in steps:
                if wish == BLOCK:
                    await trio.to_thread.run_sync(_blocks)
                elif wish == EXCHANGE:
                    await ours.send(b"x")
                    await theirs.recv(1)
                else:
                    await trio.lowlevel.checkpoint()

    ours, theirs = trio.socket.socketpair()
    for wave in _waves(requests, n_operations):
        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in wave]
            for (steps, _), scope in zip(wave, scopes, strict=True):
                nursery.start_soon(drive, steps, scope)
            await trio.lowlevel.checkpoint()
            for (_, is_cancelled), scope in zip(wave, scopes, strict=True):
                if is_cancelled:
                    scope.cancel()
    ours.close()
    theirs.close()


def _on_gevent(requests: Requests, n_operations: int) -> None:
    import gevent
    import gevent.socket

    ours, theirs = gevent.socket.socketpair()
    pool = gevent.get_hub().threadpool

    def drive(steps: Steps) -> None:
        with contextlib.closing(steps):
            for wish in steps:
                if wish == BLOCK:
                    pool.apply(_blocks)
                elif wish == EXCHANGE:
                    ours.sendall(b"x")
                    theirs.recv(1)
                else:
                    gevent.sleep(0)

    for wave in _waves(requests, n_operations):
        greenlets = [gevent.spawn(drive, steps) for steps, _ in wave]
        gevent.sleep(0)
        for greenlet, (_, is_cancelled) in zip(greenlets, wave, strict=True):
            if is_cancelled:
                greenlet.kill(block=False)
        gevent.joinall(greenlets, raise_error=True)
    ours.close()
    theirs.close()


def torture(peer: str, n_operations: int, seed: int = 1) -> dict[str, Any]:
    """Run requests on a peer until they have performed so many operations; return the figures."""
    requests = Requests(seed)
    started = time.perf_counter()
    if peer == "trio":
        import trio

        trio.run(_on_trio, requests, n_operations)
    elif peer == "gevent":
        _on_gevent(requests, n_operations)
    else:
        from benches import peers

        peers.run(peer, _on_asyncio(requests, n_operations))
    seconds = time.perf_counter() - started
    tally = requests.tally
    return {
        "n_operations": tally.n_operations,
        "n_results": tally.n_results,
        "n_wrong": tally.n_wrong,
        "n_takeovers": tally.n_takeovers,
        "wrong_percent": 100 * tally.n_wrong / tally.n_results,
        "seconds": seconds,
        "operation_ns": seconds / tally.n_operations * 1e9,
        "wrong_by_kind": tally.by_kind,
    }


if __name__ == "__main__":
    print(json.dumps(torture(sys.argv[1], int(sys.argv[2]))))
