"""Environments belong to a request: they go with it from thread to thread, and affect no other."""

from __future__ import annotations

import asyncio
import contextvars
import os
from typing import Any

import pytest
import threadlets
from threadlets import fp

from .harness import DOWN, NEAREST, UP, Gate, rounding, set_rounding, third

pytestmark = pytest.mark.starts("inline", "beside")

#: For a long run, set each of these to a million.
_N_SUSPENSIONS = int(os.environ.get("THREADLETS_FP_SUSPENSIONS", "20000"))
_N_TAKEOVERS = int(os.environ.get("THREADLETS_FP_TAKEOVERS", "40"))


def test_plain_code_needs_no_loop() -> None:
    """The end of a nested block restores the environment of the block around it."""
    upward = fp.environment(rounding="upward")
    with upward:
        assert UP == third()
        with fp.environment(rounding="downward"), upward:
            assert "upward" == rounding()
        with fp.environment(rounding="nearest"):
            assert NEAREST == third()
        assert UP == third()
    assert NEAREST == third()


def test_denormals_become_zero_within_the_block() -> None:
    """Results and operands have a setting each; None keeps the setting of outside."""
    least, half = float("5e-324"), float("0.5")
    normal = float("2.2250738585072014e-308")
    with fp.environment(flush_to_zero=True):
        assert 0.0 == normal * half
    with fp.environment(denormals_are_zero=True):
        assert 0.0 == least * float("1e300")
        with fp.environment(rounding="upward"):
            assert fp.state().denormals_are_zero
    assert least * float("1e300") > 0.0


def test_unknown_rounding_is_refused() -> None:
    """The error lists the rounding modes."""
    with pytest.raises(ValueError, match="'nearest', 'upward', 'downward' or 'toward-zero'"):
        fp.environment(rounding="sideways")  # type: ignore[arg-type]


def test_exception_ends_the_block() -> None:
    """An exception ends the block and restores the state."""
    with pytest.raises(KeyError), fp.environment(rounding="upward"):
        raise KeyError
    assert "nearest" == rounding()


@pytest.mark.parametrize("debug", [False, True])
def test_environment_survives_suspensions_and_others_never_see_it(run: Any, debug: bool) -> None:
    """Three tasks that round in three ways are resumed alternately."""
    n_ticks = _N_SUSPENSIONS // 4 if not debug else 500

    async def rounds(name: Any, expected: float) -> int:
        n_right = 0
        with fp.environment(rounding=name):
            for _ in range(n_ticks):
                await asyncio.sleep(0)
                n_right += third() == expected
        return n_right

    async def plain() -> int:
        n_right = 0
        for _ in range(n_ticks):
            await asyncio.sleep(0)
            n_right += third() == NEAREST
        return n_right

    async def main() -> list[int]:
        return await asyncio.gather(
            rounds("upward", UP), rounds("downward", DOWN), rounds("toward-zero", DOWN), plain()
        )

    assert [n_ticks] * 4 == run(main(), debug=debug)


def test_environment_survives_takeovers() -> None:
    """A function blocks within the block, beside the loop or while another worker has the role."""

    def n_takeovers() -> int:
        stats = threadlets.stats()
        return int(stats["takeovers_blocked"] + stats["takeovers_overdue"] + stats["calls_beside"])

    async def upward() -> None:
        with fp.environment(rounding="upward"):
            while n_takeovers() < _N_TAKEOVERS:
                gate = Gate()
                opener = asyncio.create_task(opens(gate))
                assert UP == await threadlets.call(lambda gate=gate: (gate(), third())[1])
                assert UP == third()
                await opener

    async def opens(gate: Gate) -> None:
        await gate.entered.wait()
        # The task inherits the environment; requests of the loop do not.
        assert UP == third()
        gate.open()

    async def plain(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await asyncio.sleep(0.0001)
            assert NEAREST == third()

    async def main() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(plain(stop))
        await asyncio.gather(upward(), upward())
        stop.set()
        await task

    threadlets.run(main())


def test_children_inherit_for_as_long_as_they_live(run: Any) -> None:
    """A task that copied the context in the block keeps the environment after the block has ended."""

    async def child(ready: asyncio.Event) -> float:
        await ready.wait()
        return third()

    async def main() -> None:
        ready = asyncio.Event()
        before = asyncio.create_task(child(ready))
        with fp.environment(rounding="upward"):
            within = asyncio.create_task(child(ready))
        after = asyncio.create_task(child(ready))
        ready.set()
        assert [NEAREST, UP, NEAREST] == await asyncio.gather(before, within, after)

    run(main())


def test_environment_is_an_argument_of_calls_and_pools(run: Any) -> None:
    """A call's environment takes precedence over its pool's; neither affects the awaiter."""
    upward, downward = fp.environment(rounding="upward"), fp.environment(rounding="downward")

    async def main() -> None:
        assert UP == await threadlets.call(third, fp=upward)
        pool = threadlets.Pool(fp=downward)
        assert "downward" == await pool.call(rounding)
        assert "upward" == await pool.call(rounding, fp=upward)
        assert UP == await threadlets.call(third, abandon_on_cancel=True, fp=upward)
        assert "downward" == await pool.call(rounding, abandon_on_cancel=True)
        assert NEAREST == await threadlets.call(third, fp=None)
        for options in ({}, {"pool": pool}, {"abandon_on_cancel": True}):
            assert UP == await threadlets.threadlet(fp=upward, **options)(third)()  # type: ignore[arg-type]
        assert "nearest" == rounding()
        with pytest.raises(TypeError, match=r"threadlets.fp.environment\(\)"):
            threadlets.call(third, fp="upward")  # type: ignore[call-overload]

    run(main())


def test_environment_is_applied_to_a_context(run: Any) -> None:
    """A task of that context computes in the environment; the code that applies it does not."""

    async def computes() -> float:
        await asyncio.sleep(0)
        return third()

    async def main() -> None:
        context = contextvars.copy_context()
        fp.environment(rounding="upward").apply_to(context)
        assert NEAREST == third()
        assert UP == await asyncio.get_running_loop().create_task(computes(), context=context)

    run(main())


def test_code_that_changes_the_state_within_an_environment_is_named(run: Any) -> None:
    """The state is restored to the environment, not to the default."""

    async def careless_within() -> float:
        with fp.environment(rounding="upward"):
            set_rounding("downward")
            await asyncio.sleep(0)
            return third()

    async def main() -> float:
        return await asyncio.create_task(careless_within())

    assert UP == run(main())
    found = [it for name, all_ in fp.report().items() if "careless_within" in name for it in all_]
    assert ["rounding downward"] == [it.changes for it in found]


def test_cancellation_within_an_environment_ends_it(run: Any) -> None:
    """The exception leaves the block, on any thread."""

    async def upward() -> None:
        with fp.environment(rounding="upward"):
            await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(upward())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "nearest" == rounding()

    run(main())


def test_scope_starts_requests_in_an_environment(run: Any) -> None:
    """Coroutines keep it across suspensions, functions have it, and the scope's block does not."""

    async def later() -> float:
        await asyncio.sleep(0)
        return third()

    async def main() -> list[float]:
        async with threadlets.Scope() as scope:
            requests = [
                scope.start(later, fp=fp.environment(rounding="upward")),
                scope.start(third, fp=fp.environment(rounding="downward")),
                scope.start(later()),
            ]
            assert "nearest" == rounding()
        return [request.result() for request in requests]

    assert [UP, DOWN, NEAREST] == run(main())


def test_scope_refuses_an_environment_for_what_computes_nothing(run: Any) -> None:
    """A wait runs no code."""

    async def main() -> None:
        async with threadlets.Scope() as scope:
            wait = threadlets.sleep(0)
            with pytest.raises(TypeError, match="computes nothing"):
                scope.start(wait, fp=fp.environment(rounding="upward"))
            await wait

    run(main())
