"""Put a judged loop's own task and future classes where the stock tests look for asyncio's C ones.

Most tests of tasks and futures make them by class, on a loop whose time is simulated. A loop that
has classes of its own is judged by those tests too, on a loop of its own with the same clock.
Knows nothing of pytest or of results.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import importlib
import itertools
from collections.abc import Callable, Generator
from typing import Any, Final

# Those whose simulated time serves tasks and futures; others watch what their mocked loop is told.
_MODULES: Final = ("test_futures", "test_futures2", "test_tasks", "test_eager_task_factory")


def adapt_classes(name: str) -> None:
    """Have the tests take the classes of module `name` for asyncio's C ones, if it has any."""
    module = importlib.import_module(name)
    core: Any = getattr(module, "_core", None)
    if not hasattr(core, "Task"):
        return
    tasks: Any = asyncio.tasks
    futures: Any = asyncio.futures
    # Names that only the tests read: asyncio's own code and `asyncio.Task` stay as they are.
    tasks._CTask = core.Task
    futures._CFuture = core.Future
    _adapt_new_test_loop(simulated(module.Loop))


def adapt_evil_loop(name: str, tests: Any) -> None:
    """Have the loops that are evil to futures, in a module of tests, be loops of module `name`.

    A class of futures that serves its own loops only is not reached by others.
    """
    module = importlib.import_module(name)
    evil = getattr(tests, "SimpleEvilEventLoop", None)
    if evil is not None and hasattr(getattr(module, "_core", None), "Future"):
        methods = {key: value for key, value in vars(evil).items() if callable(value)}
        tests.SimpleEvilEventLoop = type("SimpleEvilEventLoop", (module.Loop,), methods)


def _adapt_new_test_loop(loop_type: Callable[[Any], asyncio.AbstractEventLoop]) -> None:
    utils: Any = importlib.import_module("test.test_asyncio.utils")
    stock_new = utils.TestCase.new_test_loop

    def new_test_loop(self: Any, gen: Any = None) -> Any:
        if type(self).__module__.rpartition(".")[2] not in _MODULES:
            return stock_new(self, gen)
        loop = loop_type(gen)
        self.set_event_loop(loop)
        return loop

    utils.TestCase.new_test_loop = new_test_loop


def simulated(base: type) -> Callable[[Any], asyncio.AbstractEventLoop]:
    """Make of a loop's class one with the clock of the stock tests' `TestLoop`.

    A generator is told when each timer is due and yields by how much time goes on.
    """

    class SimulatedLoop(base):  # type: ignore[misc]
        def __init__(self, gen: Callable[[], Generator[Any, Any, Any]] | None = None) -> None:
            super().__init__()
            self._checks_end = gen is not None
            self._gen = (gen or _stands_still)()
            next(self._gen)
            self._now = 0.0
            self._announced: list[float] = []
            self._due: list[tuple[float, int, asyncio.TimerHandle]] = []
            self._order = itertools.count()

        @property
        def _ready(self) -> list[None]:
            # The tests ask whether anything is.
            return [None] * self._counts()[0]

        @_ready.setter
        def _ready(self, ready: object) -> None:
            pass

        def time(self) -> float:
            return self._now

        def advance_time(self, advance: float | None) -> None:
            if advance:
                self._now += advance

        def call_later(self, delay: Any, callback: Any, *args: Any, context: Any = None) -> Any:
            if delay is None:
                raise TypeError("delay must not be None")
            return self.call_at(self._now + delay, callback, *args, context=context)

        def call_at(self, when: Any, callback: Any, *args: Any, context: Any = None) -> Any:
            self._check_closed()
            self._announced.append(when)
            timer = asyncio.TimerHandle(when, callback, args, self, context)
            if timer._source_traceback:
                del timer._source_traceback[-1]
            heapq.heappush(self._due, (when, next(self._order), timer))
            return timer

        def close(self) -> None:
            super().close()
            self._due.clear()
            if self._checks_end:
                try:
                    self._gen.send(0)
                except StopIteration:
                    return
                raise AssertionError("Time generator is not finished")

        def _run_ticks(self) -> None:
            while True:
                self._run_once()
                if self._stopping:
                    return

        def _run_once(self) -> None:
            # Something is always ready: no tick waits for real time.
            empty = contextvars.Context()
            super().call_soon(_nothing, context=empty)
            while self._due and self._due[0][0] <= self._now + 1e-9:
                timer = heapq.heappop(self._due)[2]
                if not timer.cancelled():
                    self._add_callback(timer)
            super()._run_once()
            for when in self._announced:
                self.advance_time(self._gen.send(when))
            self._announced = []

    return SimulatedLoop


def _stands_still() -> Generator[None, float, None]:
    yield


def _nothing() -> None:
    pass
