"""Ways of calling a plain function from a coroutine, by peer. One table: all get the same load."""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from benches.peers import SUBJECT, loop_factory

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")
#: ``await call(function, *args)``.
Call = Callable[..., Awaitable[Any]]


@dataclass(frozen=True)
class Way:
    """How a peer calls functions, and the loop on which it does."""

    loop: str
    #: Called inside the running loop; the number of threads is for peers that take one.
    make: Callable[[int | None], Call]
    #: The number of threads; None: that of the case, if it has one.
    n_threads: int | None = None


def _threadlets(_n_threads: int | None) -> Call:
    call: Call = importlib.import_module(SUBJECT).call
    return call


def _to_thread(_n_threads: int | None) -> Call:
    return asyncio.to_thread


def _pool(n_threads: int | None) -> Call:
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(n_threads)

    def call(function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        return loop.run_in_executor(executor, function, *args)

    return call


def _anyio(n_threads: int | None) -> Call:
    anyio: Any = importlib.import_module("anyio")
    run_sync: Call = anyio.to_thread.run_sync
    if n_threads is None:
        return run_sync
    return functools.partial(run_sync, limiter=anyio.CapacityLimiter(n_threads))


def _direct(_n_threads: int | None) -> Call:
    async def call(function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    return call


#: `direct` calls in a coroutine and blocks the loop: the lower bound of the cost, but no solution.
WAYS = {
    SUBJECT: Way(SUBJECT, _threadlets),
    "asyncio": Way("asyncio", _to_thread),
    "pool-64": Way("asyncio", _pool, 64),
    "pool-1000": Way("asyncio", _pool, 1000),
    "uvloop": Way("uvloop", _pool, 64),
    "anyio": Way("asyncio", _anyio),
    "direct": Way("asyncio", _direct),
}


def run(peer: str, main: Coroutine[Any, Any, T], **loop_options: Any) -> T:
    """Run a coroutine on a fresh loop of the peer; the options are for threadlets' loop alone."""
    factory: Callable[[], asyncio.AbstractEventLoop] = loop_factory(WAYS[peer].loop)
    if peer == SUBJECT and loop_options:
        factory = functools.partial(factory, **loop_options)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def caller(peer: str, n_threads: int | None = None) -> Call:
    """Return the peer's way of calling, inside its running loop."""
    way = WAYS[peer]
    return way.make(way.n_threads or n_threads)
