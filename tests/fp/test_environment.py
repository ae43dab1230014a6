"""Private environments: they go with their request, from thread to thread, and with nobody else."""

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

#: For a long run by hand, a million of each.
_N_SUSPENSIONS = int(os.environ.get("THREADLETS_FP_SUSPENSIONS", "20000"))
_N_TAKEOVERS = int(os.environ.get("THREADLETS_FP_TAKEOVERS", "40"))


def test_plain_code_needs_no_loop() -> None:
    """Nested blocks go back to what was before."""
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
    """Results and operands each have their say; what is None is as outside."""
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
    """The message lists those that there are."""
    with pytest.raises(ValueError, match="'nearest', 'upward', 'downward' or 'toward-zero'"):
        fp.environment(rounding="sideways")  # type: ignore[arg-type]


def test_exception_ends_the_block() -> None:
    """Like any context manager."""
    with pytest.raises(KeyError), fp.environment(rounding="upward"):
        raise KeyError
    assert "nearest" == rounding()


@pytest.mark.parametrize("debug", [False, True])
def test_environment_survives_suspensions_and_others_never_see_it(run: Any, debug: bool) -> None:
    """Three tasks that round in three ways take turns."""
    n_turns = _N_SUSPENSIONS // 4 if not debug else 500

    async def rounds(name: Any, expected: float) -> int:
        n_right = 0
        with fp.environment(rounding=name):
            for _ in range(n_turns):
                await asyncio.sleep(0)
                n_right += third() == expected
        return n_right

    async def plain() -> int:
        n_right = 0
        for _ in range(n_turns):
            await asyncio.sleep(0)
            n_right += third() == NEAREST
        return n_right

    async def main() -> list[int]:
        return await asyncio.gather(
            rounds("upward", UP), rounds("downward", DOWN), rounds("toward-zero", DOWN), plain()
        )

    assert [n_turns] * 4 == run(main(), debug=debug)


def test_environment_survives_takeovers() -> None:
    """A function blocks within it, beside the loop or while other threads run that."""

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
        # It inherits; what the loop itself runs does not.
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
    """What copies the context in the block has its environment, also after the block has ended."""

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
    """A call's own comes before its pool's; neither touches the awaiter."""
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
    """A task that is started in that context computes in it; whoever applies it does not."""

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
    """The environment is what was asked for; it is put back."""

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
    """The block is left by the exception, on whichever thread that is."""

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
    """Coroutines across their suspensions, and functions; the scope's own block is as it was."""

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
    """A wait is no code."""

    async def main() -> None:
        async with threadlets.Scope() as scope:
            wait = threadlets.sleep(0)
            with pytest.raises(TypeError, match="computes nothing"):
                scope.start(wait, fp=fp.environment(rounding="upward"))
            await wait

    run(main())
