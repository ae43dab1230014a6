"""`sweep`: one program over any number of inputs, at a bounded depth."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Self

from threadlets._core import BufferPool, Result, checkpoint
from threadlets._core import Sweep as _NativeSweep
from threadlets.syslets.syslet import Syslet, running_loop

DEPTH = 256
"""How many runs are under way at a time, unless one says otherwise."""

Progress = Callable[[int, int | None], object]


class _Counter:
    """Counts results, and tells whoever wants to know of progress."""

    def __init__(self, total: int | None, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._n_done = 0

    def note(self, batch: list[Result]) -> None:
        self._n_done += len(batch)
        if self._progress is not None:
            self._progress(self._n_done, self._total)


class Sweep:
    """The results of a sweep: iterate over it, with `for` or with `async for`.

    Whoever iterates drives it: nothing is read from the inputs before there is room for it. Leaving
    a `with` block, `close()`, and the end of the last reference cancel what is under way.
    """

    def __init__(self, native: _NativeSweep, counter: _Counter) -> None:
        self._native = native
        self._counter = counter
        # They do not refer to this object: the last reference to it is to end the sweep.
        self._results = _results(native, counter)
        self._results_async: AsyncIterator[Result] | None = None

    def batches(self) -> Iterator[list[Result]]:
        """Iterate over the results in lists, as they come: the cheapest way."""
        return _batches(self._native, self._counter)

    def batches_async(self) -> AsyncIterator[list[Result]]:
        """Do the same in a loop, other tasks of which run between two lists."""
        return _batches_async(self._native, self._counter)

    def close(self) -> None:
        """Take no more inputs, and cancel the runs that are under way."""
        self._native.close()

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
        return f"<Sweep: {n_taken} inputs taken, {n_given} done, {n_in_flight} under way>"


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


def _results(native: _NativeSweep, counter: _Counter) -> Iterator[Result]:
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
    """Run a program once for each of the inputs, and iterate over the results.

    An input is the program's argument, or a tuple of its arguments if it takes several. Up to
    `depth` runs are under way at a time; memory does not grow with the number of inputs. `ordered`
    results come in the order of the inputs, others as they end; `result.input` says what each is
    of. A run that takes longer than `timeout` seconds after it first had to wait fails with
    ETIMEDOUT. After each batch `progress` is called with the number of results so far and that of the
    inputs (None if they do not tell). Buffers come from `pool`.

    A failure is a result like any other. What the inputs raise, and an input of the wrong kind,
    raises once the results before it have been given.

    Raises:
        ValueError: `depth` is 0, or `timeout` is not above 0.
        TypeError: `inputs` cannot be iterated over.
    """
    native = _NativeSweep(program.native, inputs, depth, ordered, timeout, pool)
    return Sweep(native, _Counter(len(inputs) if isinstance(inputs, Sized) else None, progress))
