"""Sticky flags: those that one request raised, across its suspensions, and no other's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import threadlets
from threadlets import fp

from .harness import Gate, libm, third

pytestmark = pytest.mark.starts("inline", "beside")

_large, _least, _infinity = float("1e308"), float("3e-308"), float("inf")

_RAISES: dict[str, Callable[[], object]] = {
    "overflow": lambda: _large * _large,
    "underflow": lambda: _least / float("3e5"),
    "divide-by-zero": lambda: libm.log(0.0),
    "invalid": lambda: _infinity - _infinity,
    "inexact": third,
}


@pytest.mark.parametrize("name", _RAISES)
def test_each_exception_is_told(name: str) -> None:
    """`flags` has it as an attribute, and by name in `raised`."""
    with fp.flags() as seen:
        assert frozenset() == seen.raised
        _RAISES[name]()
    assert name in seen.raised
    assert getattr(seen, name.replace("-", "_"))


def test_nested_blocks_tell_the_outer_ones() -> None:
    """Flags that were raised before the inner block are not the inner block's."""
    with fp.flags() as outer:
        _RAISES["overflow"]()
        with fp.flags() as inner:
            _RAISES["invalid"]()
            assert not inner.overflow
            assert outer.invalid
        assert outer.overflow
    assert (False, True) == (inner.overflow, outer.invalid)


@pytest.mark.parametrize("debug", [False, True])
def test_flags_are_one_requests_across_its_suspensions(run: Any, debug: bool) -> None:
    """Other requests, a child among them, raise their flags meanwhile."""

    async def raises(name: str) -> frozenset[str]:
        with fp.flags() as seen:
            await asyncio.sleep(0)
            _RAISES[name]()
            await asyncio.sleep(0)
        return seen.raised

    async def quiet() -> frozenset[str]:
        with fp.flags() as seen:
            child = asyncio.create_task(raises("divide-by-zero"))
            for _ in range(6):
                await asyncio.sleep(0)
            await child
        return seen.raised

    async def main() -> None:
        overflow, invalid, nothing = await asyncio.gather(
            raises("overflow"), raises("invalid"), quiet()
        )
        assert {"overflow", "inexact"} == overflow
        assert {"invalid"} == invalid
        assert frozenset() == nothing

    run(main(), debug=debug)


def test_threadlet_raises_for_its_awaiter_also_when_it_blocks(run: Any) -> None:
    """A threadlet runs within the awaiter's step, so its flags count for the awaiter."""

    async def blocks(gate: Gate) -> frozenset[str]:
        with fp.flags() as seen:
            await threadlets.call(lambda: (gate(), _RAISES["overflow"]()))
        return seen.raised

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(blocks(gate))
        await gate.entered.wait()
        _RAISES["invalid"]()
        gate.open()
        assert {"overflow", "inexact"} == await task

    run(main())
