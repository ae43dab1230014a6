"""Helpers of the tests in this folder."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Generator
from typing import Any

import pytest

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
Run = Callable[..., Any]
Script = Callable[[str], tuple[int, str, str]]

DEADLINE_S = 20.0

# For tests of promises that are ours alone: asyncio's tasks do not make them.
native_only = pytest.mark.parametrize("kind", ["native"], indirect=True)


async def ticks(n_ticks: int) -> None:
    """Let the loop run `n_ticks` ticks."""
    for _ in range(n_ticks):
        await asyncio.sleep(0)


def note_failures() -> list[dict[str, Any]]:
    """Return a list that collects what the running loop's exception handler is given."""
    failures: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: failures.append(context))
    return failures


def collect() -> None:
    """Collect garbage until there is none."""
    while gc.collect():
        pass


class Raw:
    """A coroutine object of a type that is not the interpreter's, as compilers to C make them."""

    def __init__(self, generator: Generator[Any, Any, Any]) -> None:
        self._generator = generator

    def send(self, value: Any) -> Any:
        return self._generator.send(value)

    def throw(self, *error: Any) -> Any:
        return self._generator.throw(*error)

    def close(self) -> None:
        self._generator.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._generator)
