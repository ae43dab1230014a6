"""An exception in a callback is reported; only KeyboardInterrupt and SystemExit end the loop."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from .harness import Run, note_failures, socket_pair, ticks


class Mishap(Exception):
    """The exception that callbacks raise here."""


def fail() -> None:
    raise Mishap("in the callback")


def test_failing_callback_is_reported_and_the_loop_goes_on(run: Run) -> None:
    """The handler is given message, exception and handle, and later callbacks run."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        failures = note_failures()
        order: list[str] = []
        loop.call_soon(fail)
        loop.call_soon(order.append, "after")
        await ticks(2)
        (failure,) = failures
        assert isinstance(failure["exception"], Mishap)
        assert "Exception in callback" in failure["message"]
        assert "fail" in failure["message"]
        assert "fail" in repr(failure["handle"])
        assert ["after"] == order

    run(main())


def test_failing_timer_and_reader_are_reported(run: Run) -> None:
    """Exceptions in timers and readers are reported like those in callbacks."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        failures = note_failures()
        loop.call_later(0, fail)
        with socket_pair() as (ours, theirs):
            theirs.send(b"x")
            told = asyncio.Event()

            def read() -> None:
                ours.recv(1)
                told.set()
                fail()

            loop.add_reader(ours, read)
            await told.wait()
            await ticks(2)
            loop.remove_reader(ours)
        assert [Mishap, Mishap] == [type(failure["exception"]) for failure in failures]

    run(main())


def test_default_handler_logs(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Without a handler of the program's own a failure is logged with its traceback."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(fail)
        await ticks(2)

    with caplog.at_level(logging.ERROR, logger="asyncio"):
        run(main())
    (record,) = caplog.records
    assert "Exception in callback fail()" in record.getMessage()
    assert record.exc_info is not None
    assert Mishap is record.exc_info[0]


def test_failing_handler_is_logged_and_the_loop_goes_on(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure of the exception handler itself is logged, and the loop goes on."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, _context: fail())
        loop.call_soon(fail)
        await ticks(2)

    with caplog.at_level(logging.ERROR, logger="asyncio"):
        run(main())
    assert any("Unhandled error in exception handler" in it.getMessage() for it in caplog.records)


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_what_ends_programs_ends_the_run(
    loop: asyncio.AbstractEventLoop, ending: type[BaseException]
) -> None:
    """KeyboardInterrupt and SystemExit leave `run_forever`, and the loop can be run again."""

    def end() -> None:
        raise ending

    order: list[str] = []
    loop.call_soon(end)
    loop.call_soon(order.append, "after")
    with pytest.raises(ending):
        loop.run_forever()
    assert not loop.is_running()
    loop.run_until_complete(asyncio.sleep(0))
    assert ["after"] == order


def test_other_base_exceptions_are_reported(run: Run) -> None:
    """A BaseException of a program's own is reported like any other failure."""

    class Odd(BaseException):
        pass

    async def main() -> None:
        failures = note_failures()

        def odd() -> None:
            raise Odd

        asyncio.get_running_loop().call_soon(odd)
        await ticks(2)
        assert [Odd] == [type(failure["exception"]) for failure in failures]

    run(main())


def test_task_failure_that_is_not_awaited_is_reported(run: Run) -> None:
    """The exception of a task that was never awaited reaches the handler when the task is freed."""

    async def main() -> None:
        failures = note_failures()

        async def task() -> None:
            fail()

        await asyncio.wait([asyncio.create_task(task())])
        await ticks(1)
        assert ["Task exception was never retrieved"] == [it["message"] for it in failures]

    run(main())


def test_handler_can_be_read_and_taken_away(run: Run) -> None:
    """`get_exception_handler` returns the handler that was set, and None by default."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert loop.get_exception_handler() is None

        def handler(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None: ...

        loop.set_exception_handler(handler)
        assert handler is loop.get_exception_handler()
        loop.set_exception_handler(None)
        assert loop.get_exception_handler() is None
        with pytest.raises(TypeError):
            loop.set_exception_handler(1)  # type: ignore[arg-type]

    run(main())
