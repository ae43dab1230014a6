"""Asynchronous generators are closed, however they are left open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .harness import Run, ticks


async def numbers(closed: list[str]) -> AsyncIterator[int]:
    """Count for ever, and note in `closed` when the generator is closed."""
    try:
        n = 0
        while True:
            yield n
            n += 1
    finally:
        await asyncio.sleep(0)
        closed.append("closed")


def test_open_generator_is_closed_at_the_end_of_the_run(run: Run) -> None:
    """The runner closes a generator that is still referred to, and runs the awaits of its closing."""
    closed: list[str] = []
    kept = numbers(closed)

    async def main() -> None:
        async for n in kept:
            if n == 2:
                break
        assert [] == closed

    run(main())
    assert ["closed"] == closed


def test_forgotten_generator_is_closed_by_the_loop(run: Run) -> None:
    """A generator to which no reference is left is closed in a later tick."""

    async def main() -> None:
        closed: list[str] = []
        async for _ in numbers(closed):
            break
        await ticks(5)
        assert ["closed"] == closed

    run(main())


def test_failing_generator_is_reported(run: Run) -> None:
    """An exception in a generator's closing reaches the exception handler."""
    failures: list[str] = []

    async def failing() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise ZeroDivisionError

    kept = failing()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, it: failures.append(it["message"]))
        await anext(kept)

    run(main())
    assert 1 == len(failures)
    assert "asynchronous generator" in failures[0]
