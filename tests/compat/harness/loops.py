"""Put a judged loop in the place of the stock one, and count who is made.

Knows nothing of pytest or of results.  A policy alone is no judge, where there
are policies (until 3.15): the stock tests reset it at the end of every module,
and their mixins call ``asyncio.SelectorEventLoop`` by name.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
from asyncio import unix_events
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

STOCK: Final = "asyncio"
_TASKS_FUNCTIONS: Final = (
    *("all_tasks", "current_task", "_register_task", "_unregister_task", "_enter_task"),
    *("_leave_task", "_swap_current_task", "_register_eager_task", "_unregister_eager_task"),
)
StockLoop: Final[type[asyncio.AbstractEventLoop]] = asyncio.SelectorEventLoop


class LoopNotInstalledError(RuntimeError):
    """A door through which tests obtain loops still leads to another loop."""


@dataclass
class Census:
    """How many loops were made: of the judged kind, and stock ones beside it."""

    n_judged: int = 0
    n_stock: int = 0

    def take(self) -> tuple[int, int]:
        """Return both counts and start again from zero."""
        counts = (self.n_judged, self.n_stock)
        self.n_judged = self.n_stock = 0
        return counts


class StandIn:
    """What tests find under the name ``asyncio.SelectorEventLoop``.

    Called, it makes a judged loop; asked by isinstance or issubclass, or as a
    base class, it answers for the judged class.
    """

    def __init__(self, make: Callable[[], asyncio.AbstractEventLoop], judged: type) -> None:
        self._make = make
        self._judged = judged

    def __call__(self, selector: Any = None) -> asyncio.AbstractEventLoop:
        # The judged loop brings its own poller, so nobody else would close this one.
        if selector is not None:
            selector.close()
        return self._make()

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, (self._judged, StockLoop))

    def __subclasscheck__(self, cls: type) -> bool:
        return issubclass(cls, (self._judged, StockLoop))

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return (self._judged,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._judged, name)


def install(name: str) -> Census:
    """Make every door of asyncio lead to the loops of module `name`.

    The module offers ``new_event_loop()`` and the class ``Loop``, as threadlets
    and uvloop do; the name "asyncio" leaves the stock loop in place and counts
    it as the judged one.  Raise LoopNotInstalledError if a door leads elsewhere.
    """
    census = Census()
    if name == STOCK:
        _count_stock(census, as_judged=True)
        return census

    module = importlib.import_module(name)
    judged: type = module.Loop

    def make() -> asyncio.AbstractEventLoop:
        census.n_judged += 1
        loop: asyncio.AbstractEventLoop = module.new_event_loop()
        return loop

    _count_stock(census, as_judged=False)
    stand_in = StandIn(make, judged)
    for namespace in (asyncio, unix_events):
        for door in ("SelectorEventLoop", "EventLoop"):
            if hasattr(namespace, door):
                setattr(namespace, door, stand_in)
    policy_type = _default_policy()
    if policy_type is not None:
        # Policies made before and after, and their subclasses, all read this attribute.
        policy_type._loop_factory = staticmethod(make)
    _check_doors(judged)
    census.take()
    # A runner has told the policy that this thread has no loop; a program's first one is made for it.
    _reset_policy()
    return census


def _default_policy() -> Any:
    """Return the class of policies that make stock loops, or None if there are no policies."""
    if sys.version_info >= (3, 16):
        return None
    # Its public name is deprecated.
    public = sys.version_info < (3, 14)
    return getattr(unix_events, "DefaultEventLoopPolicy" if public else "_DefaultEventLoopPolicy")


def _reset_policy() -> None:
    if sys.version_info < (3, 14):
        asyncio.set_event_loop_policy(None)
    elif sys.version_info < (3, 16):
        events: Any = asyncio.events
        events._set_event_loop_policy(None)


def adapt_close_loop() -> None:
    """Let the tests' ``close_loop`` close loops that keep their executor elsewhere.

    Loops with the attribute the stock helper reads go through the stock helper.
    """
    utils = importlib.import_module("test.test_asyncio.utils")
    stock_close: Callable[[Any], None] = utils.TestCase.close_loop

    def close_loop(loop: Any) -> None:
        if hasattr(loop, "_default_executor"):
            stock_close(loop)
            return
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    utils.TestCase.close_loop = staticmethod(close_loop)


def adapt_names() -> None:
    """Have an older asyncio know the names by which the tests of a newer one call its functions."""
    events: Any = asyncio.events
    tasks: Any = asyncio.tasks
    for namespace, newer, name in (
        (events, "_set_event_loop_policy", "set_event_loop_policy"),
        *((tasks, f"_{kind}_{name}", name) for kind in ("py", "c") for name in _TASKS_FUNCTIONS),
    ):
        if not hasattr(namespace, newer) and hasattr(namespace, name):
            setattr(namespace, newer, getattr(namespace, name))


def _count_stock(census: Census, *, as_judged: bool) -> None:
    stock: Any = StockLoop
    stock_init = stock.__init__

    @functools.wraps(stock_init)
    def counting_init(self: Any, *args: Any, **kwargs: Any) -> None:
        # A judged class may derive from the stock one: only the exact type is stock.
        if type(self) is StockLoop:
            if as_judged:
                census.n_judged += 1
            else:
                census.n_stock += 1
        stock_init(self, *args, **kwargs)

    stock.__init__ = counting_init


def _check_doors(judged: type) -> None:
    doors: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio.SelectorEventLoop()": lambda: asyncio.SelectorEventLoop(),
        "asyncio.new_event_loop()": asyncio.new_event_loop,
        "Runner().get_loop()": _loop_of_runner,
    }
    policy_type = _default_policy()
    if policy_type is not None:
        doors["DefaultEventLoopPolicy().new_event_loop()"] = lambda: policy_type().new_event_loop()
    for door, open_door in doors.items():
        loop = open_door()
        loop.close()
        if not isinstance(loop, judged):
            raise LoopNotInstalledError(f"{door} made a {type(loop)!r}, not a {judged!r}")


def _loop_of_runner() -> asyncio.AbstractEventLoop:
    with asyncio.Runner() as runner:
        return runner.get_loop()
