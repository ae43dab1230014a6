"""The contract: every request begins in the default state, and a request that changes it is named."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import pytest
import threadlets
from threadlets import fp
from threadlets.exceptions import FloatingPointStateChanged
from waiting import eventually

from .harness import NEAREST, Gate, rounding, set_rounding, third

pytestmark = pytest.mark.starts("inline", "beside")


def _offences(name: str) -> list[fp.Violation]:
    """Return the violations of all requests whose name ends with `name`."""
    return [it for found, all_ in fp.report().items() if found.endswith(name) for it in all_]


@pytest.mark.starts("inline")
def test_task_that_changes_the_rounding_is_named_where_it_is_suspended(run: Any) -> None:
    """The next request computes in the default state, and so does the task when it is resumed."""
    seen: list[float] = []

    async def careless_task() -> None:
        set_rounding("upward")
        await asyncio.sleep(0)
        seen.append(third())

    async def main() -> None:
        task = asyncio.create_task(careless_task())
        await asyncio.sleep(0)
        seen.append(third())
        await task

    run(main())
    assert [NEAREST, NEAREST] == seen
    [violation] = _offences("careless_task")
    assert (1, "rounding upward") == (violation.count, violation.changes)
    where, _, line = violation.where.rpartition(":")
    # The innermost frame that is suspended: that of asyncio.sleep.
    assert where.endswith("tasks.py")
    assert int(line) > 0


@pytest.mark.starts("inline")
def test_eager_task_is_named_and_not_its_maker(run: Any) -> None:
    """Its first step runs within its maker's step, which goes on in its own state."""
    upward = fp.environment(rounding="upward")

    async def careless_eager_task() -> None:
        set_rounding("downward")
        await asyncio.sleep(0)

    async def careful_maker() -> None:
        loop: Any = asyncio.get_running_loop()
        first = loop.create_task(careless_eager_task(), eager_start=True)
        assert "nearest" == rounding()
        with upward:
            second = loop.create_task(careless_eager_task(), eager_start=True)
            assert "upward" == rounding()
        await first
        await second

    run(careful_maker())
    assert [2] == [it.count for it in _offences("careless_eager_task")]
    assert [] == _offences("careful_maker")


@pytest.mark.parametrize("debug", [False, True])
def test_callbacks_timers_and_readers_are_named(run: Any, debug: bool) -> None:
    """The state is compared after every request, queued natively or as an `asyncio.Handle`."""
    results = []

    def careless_callback() -> None:
        set_rounding("downward")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(careless_callback)
        loop.call_soon(lambda: results.append(rounding()))
        loop.call_later(0.001, careless_callback)
        await asyncio.sleep(0.01)
        results.append(rounding())

    before = sum(it.count for it in _offences("careless_callback"))
    run(main(), debug=debug)
    assert ["nearest", "nearest"] == results
    [violation] = _offences("careless_callback")
    assert before + 2 == violation.count
    assert "test_contract.py:" in violation.where


def test_protocol_that_changes_the_rounding_is_named_by_its_type(run: Any) -> None:
    """The loop calls a connection's protocol without a task."""

    class CarelessProtocol(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            set_rounding("toward-zero")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(CarelessProtocol, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"x")
            await eventually(lambda: _offences("CarelessProtocol"))
            writer.close()
            with contextlib.suppress(OSError):
                await reader.read()
        assert "nearest" == rounding()

    run(main())
    assert "rounding toward zero" == _offences("CarelessProtocol")[0].changes


def test_threadlet_is_named_not_its_awaiter(run: Any) -> None:
    """A threadlet runs within a task's step; the task goes on in its own state."""

    def careless_threadlet() -> str:
        set_rounding("upward")
        return "result"

    async def awaiter() -> tuple[str, str]:
        return await threadlets.call(careless_threadlet), rounding()

    assert ("result", "nearest") == run(awaiter())
    assert "rounding upward" == _offences("careless_threadlet")[0].changes
    assert [] == _offences("awaiter")


def test_threadlet_in_an_executor_is_named(run: Any) -> None:
    """It is a request of its own, which the dispatcher runs."""

    def careless_executed() -> None:
        set_rounding("upward")

    async def main() -> str:
        await asyncio.get_running_loop().run_in_executor(None, careless_executed)
        return rounding()

    assert "nearest" == run(main(), executor="threadlets")
    assert 1 == len(_offences("careless_executed"))


def test_policy_warn_warns(run: Any) -> None:
    """The warning names the request, the place, and the change."""

    def warned() -> None:
        set_rounding("upward")

    async def main() -> None:
        with pytest.warns(RuntimeWarning, match=r"warned .*test_contract.py:\d+.*rounding upward"):
            await threadlets.call(warned)

    run(main(), fp="warn")


@pytest.mark.filterwarnings("error")
def test_warning_that_is_an_error_keeps_a_threadlets_result(run: Any) -> None:
    """The warning goes to the loop's exception handler; `fp="raise"` is there for errors."""
    failures = []

    def warned_in_vain() -> str:
        set_rounding("upward")
        return "result"

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        result: str = await threadlets.call(warned_in_vain)
        return result

    assert "result" == run(main(), fp="warn")
    (failure,) = failures
    assert isinstance(failure, RuntimeWarning)
    assert "rounding upward" in str(failure)


def test_policy_raise_raises_where_a_threadlet_is_awaited(run: Any) -> None:
    """The error replaces a result, which may be wrong, but not the function's own exception."""

    def raising(error: Exception | None) -> None:
        set_rounding("upward")
        if error:
            raise error

    async def main() -> None:
        with pytest.raises(FloatingPointStateChanged, match="rounding upward") as caught:
            await threadlets.call(raising, None)
        assert caught.value.name.endswith("raising")
        with pytest.raises(KeyError):
            await threadlets.call(raising, KeyError())
        assert "nearest" == rounding()

    run(main(), fp="raise")


def test_policy_raise_tells_the_exception_handler_of_tasks(run: Any) -> None:
    """A step that has ended cannot fail, so the loop's exception handler is called, with the task."""
    heard: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: heard.append(context))
        set_rounding("upward")
        await asyncio.sleep(0)
        assert "nearest" == rounding()

    run(main(), fp="raise")
    [context] = heard
    assert isinstance(context["exception"], FloatingPointStateChanged)
    assert isinstance(context["task"], asyncio.Task)


def test_policy_off_leaves_what_it_finds(run: Any) -> None:
    """The state is not compared: what a request sets stays set for the next one."""

    async def main() -> str:
        asyncio.get_running_loop().call_soon(set_rounding, "upward")
        await asyncio.sleep(0)
        found = rounding()
        set_rounding("nearest")
        return found

    assert "upward" == run(main(), fp="off")


def test_unknown_policy_is_refused() -> None:
    """The error lists the policies."""
    with pytest.raises(ValueError, match="'restore', 'warn', 'raise' or 'off'"):
        threadlets.new_event_loop(fp="sometimes")  # type: ignore[arg-type]


def test_loop_starts_from_the_known_state_and_gives_back_what_it_found(run: Any) -> None:
    """The default state is the ABI's, not the caller's."""

    async def main() -> str:
        return rounding()

    set_rounding("upward")
    try:
        inside, after = run(main()), rounding()
    finally:
        set_rounding("nearest")
    assert ("nearest", "upward") == (inside, after)


@pytest.mark.starts("inline")
def test_threads_of_the_loop_start_from_the_known_state(run: Any) -> None:
    """A threadlet with a changed state starts the thread that takes over."""

    def blocks(gate: Gate) -> str:
        set_rounding("upward")
        gate()
        return rounding()

    async def main() -> None:
        gate = Gate()
        home = threading.get_ident()
        blocked = asyncio.create_task(threadlets.call(blocks, gate))
        await gate.entered.wait()
        assert threading.get_ident() != home
        assert "nearest" == rounding()
        gate.open()
        # The function goes on in the state that it has set; the task does not.
        assert "upward" == await blocked
        assert "nearest" == rounding()

    run(main())


def test_function_begins_in_the_known_state_whatever_its_thread_did_before(run: Any) -> None:
    """If it has an environment, it begins in that."""
    upward = threadlets.Pool(fp=fp.environment(rounding="upward"))

    async def main() -> None:
        for _ in range(3):
            await threadlets.call(set_rounding, "downward")
            assert "nearest" == await threadlets.call(rounding)
            assert "upward" == await upward.call(rounding)
            assert NEAREST == await threadlets.call(third)
            assert "nearest" == rounding()

    run(main())
