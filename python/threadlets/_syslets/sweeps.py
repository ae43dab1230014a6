"""`sweep`: one program over any number of inputs, with a bounded number of runs in flight."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Self

from threadlets._arguments import check_buffer_pool, check_integer, check_number, wrong_type
from threadlets._core import BufferPool, Result, checkpoint
from threadlets._core import Sweep as _NativeSweep
from threadlets._public import set_module
from threadlets._syslets.program import Syslet, native_of, running_loop

DEPTH = 256
"""The default for the number of runs in flight at a time."""

Progress = Callable[[int, int | None], object]


class _Counter:
    """Counts results, and reports them to the `progress` callback."""

    def __init__(self, total: int | None, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._n_done = 0

    def note(self, batch: list[Result]) -> None:
        self._n_done += len(batch)
        if self._progress is not None:
            self._progress(self._n_done, self._total)


@set_module("threadlets")
class Sweep:
    """The results of a sweep: iterate over it, with `for` or with `async for`.

    The iteration drives the sweep: an input is taken only when there is room for its run. Leaving a
    `with` block, `close()`, and dropping the last reference cancel the runs in flight.
    """

    def __init__(self, native: _NativeSweep, counter: _Counter) -> None:
        self._native = native
        self._counter = counter
        # The generators must not refer to this object, or dropping it would not end the sweep.
        self._results = _results(native, counter)
        self._results_async: AsyncIterator[Result] | None = None

    def batches(self) -> Iterator[list[Result]]:
        """Iterate over the results in lists, as they arrive; this is the cheapest way."""
        return _batches(self._native, self._counter)

    def batches_async(self) -> AsyncIterator[list[Result]]:
        """Iterate like `batches` in a task; other tasks run between two lists."""
        return _batches_async(self._native, self._counter)

    def close(self) -> None:
        """Take no more inputs, cancel the runs in flight, and drop their results."""
        self._native.close()
        # The generator may hold a list of results. While it runs, as when `progress` calls this, it
        # cannot be closed.
        with contextlib.suppress(ValueError):
            self._results.close()
        self._results_async = None

    def __iter__(self) -> Iterator[Result]:
        return self._results

    def __next__(self) -> Result:
        return next(self._results)

    def __aiter__(self) -> AsyncIterator[Result]:
        if self._results_async is None:
            self._results_async = _results_async(self._native, self._counter)
        return self._results_async

    async def __anext__(self) -> Result:
        return await anext(aiter(self))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        n_taken, n_given, n_in_flight = self._native.counts()
        return f"<Sweep: {n_taken} inputs taken, {n_given} done, {n_in_flight} in flight>"


def _batches(native: _NativeSweep, counter: _Counter) -> Iterator[list[Result]]:
    while (batch := native.next_batch()) is not None:
        counter.note(batch)
        yield batch


async def _batches_async(native: _NativeSweep, counter: _Counter) -> AsyncIterator[list[Result]]:
    loop = running_loop()
    await checkpoint
    while (batch := native.next_batch_nowait()) is not None:
        if batch:
            counter.note(batch)
            yield batch
        else:
            await native.readiness(loop)
        await checkpoint


def _results(native: _NativeSweep, counter: _Counter) -> Generator[Result, None, None]:
    try:
        for batch in _batches(native, counter):
            yield from batch
    finally:
        native.close()


async def _results_async(native: _NativeSweep, counter: _Counter) -> AsyncIterator[Result]:
    try:
        async for batch in _batches_async(native, counter):
            for result in batch:
                yield result
                await checkpoint
    finally:
        native.close()


@set_module("threadlets")
def sweep(
    program: Syslet[...],
    inputs: Iterable[Any],
    *,
    depth: int = DEPTH,
    ordered: bool = True,
    timeout: float | None = None,
    progress: Progress | None = None,
    pool: BufferPool | None = None,
) -> Sweep:
    """Run a program once for each input, and iterate over the results.

    An input is the program's argument, or a tuple of its arguments if it takes several. At most
    `depth` runs are in flight at a time; memory does not grow with the number of inputs. Results come
    in the order of the inputs if `ordered`, else as the runs end; `result.input` is the input of a
    result. A run that takes longer than `timeout` seconds after it first had to wait fails with
    ETIMEDOUT. After each batch `progress` is called with the number of results so far and the number
    of inputs (None if `inputs` has no length). Buffers come from `pool`.

    A failed run is a result like any other. An exception of `inputs`, and the error for an input of
    the wrong kind, are raised after the results before it have been returned.

    Raises:
        ValueError: `depth` is less than 1, or `timeout` is not above 0.
        TypeError: `depth` is no integer, or `inputs` cannot be iterated over.
    """
    n_runs = check_integer("depth", depth, "the number of runs in flight at a time")
    if n_runs < 1:
        raise ValueError(f"depth is {depth}; a sweep has at least one run in flight")
    # The native sweep takes a machine word; there cannot be more inputs than that.
    n_runs = min(n_runs, sys.maxsize)
    if timeout is not None:
        timeout = check_number("timeout", timeout, "a time in seconds, or None for none")
    check_buffer_pool(pool)
    if not any(hasattr(type(inputs), it) for it in ("__iter__", "__getitem__")):
        remedy = "pass a list, or anything else that can be iterated over"
        raise wrong_type("inputs", inputs, "the arguments of the runs", remedy)
    native = _NativeSweep(native_of(program), inputs, n_runs, ordered, timeout, pool)
    return Sweep(native, _Counter(len(inputs) if isinstance(inputs, Sized) else None, progress))
