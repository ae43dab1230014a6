"""Cancelling a tree of scopes is one native call, and user code that it calls may cancel again."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any

import threadlets
from threadlets import Scope
from threadlets._core import Members

from .conftest import Run


async def _turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def _forever() -> None:
    await asyncio.Event().wait()


def test_a_tree_of_scopes_is_cancelled_by_one_native_call(run: Run) -> None:
    """The tasks and waits of the scopes within, and their blocks, are reached without Python code."""
    calls: list[str] = []

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_qualname)
        elif event == "c_call" and isinstance(argument.__self__, Members):
            calls.append(f"Members.{argument.__name__}")

    async def main() -> int:
        async def host(depth: int) -> None:
            async with Scope() as inner:
                inner.start(threadlets.sleep(60))
                inner.start(_forever())
                if depth:
                    inner.start(host(depth - 1))
                await _forever()

        async with Scope() as scope:
            scope.start(host(5))
            await _turns(30)
            n_tasks = threadlets.ledger().tasks
            sys.setprofile(profile)
            scope.cancel("enough")
            sys.setprofile(None)
            await _forever()
        return n_tasks

    assert 13 == run(main())
    assert ["Scope.cancel", "Members.cancel"] == calls


def test_a_failed_member_cancels_the_others_without_python_code(run: Run) -> None:
    """Its exception is kept, and its scope cancelled, where the member ends."""
    calls: list[str] = []

    def profile(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_qualname)

    async def main() -> tuple[list[str], bool]:
        future = asyncio.get_running_loop().create_future()
        try:
            async with Scope() as scope:
                scope.start(future)
                other = scope.start(threadlets.sleep(60))
                scope.start(_forever())
                await _turns()
                sys.setprofile(profile)
                future.set_exception(ValueError())
                sys.setprofile(None)
                await _forever()
        except ExceptionGroup as group:
            return [repr(error) for error in group.exceptions], other.cancelled()
        raise AssertionError("nothing was raised")

    assert (["ValueError()"], True) == run(main())
    assert [] == calls


def test_a_scope_that_is_cancelled_again_while_it_is_being_cancelled_cancels_all_once(
    run: Run,
) -> None:
    """What a member awaits has a `cancel` that cancels the scope: its message comes later, and stays."""

    class Echo(asyncio.Future[None]):
        def cancel(self, msg: Any = None) -> bool:
            heard.append(msg)
            if len(heard) == 1:
                scope.cancel("the echo")
            return super().cancel(msg)

    heard: list[str] = []
    scope = Scope()

    async def main() -> tuple[int, list[str]]:
        seen: list[str] = []

        async def watch() -> None:
            try:
                await _forever()
            except asyncio.CancelledError as error:
                seen.append(str(error))
                raise

        async def wait() -> None:
            await Echo(loop=asyncio.get_running_loop())

        async def host() -> None:
            async with Scope() as inner:
                inner.start(wait())
                inner.start(watch())
                await _forever()

        task = asyncio.current_task()
        assert task is not None
        async with scope:
            scope.start(watch())
            scope.start(host())
            await _turns()
            scope.cancel("the call")
            n_cancels = task.cancelling()
            await watch()
        return n_cancels, seen

    by_call, by_echo = (f"scope was cancelled: {it}" for it in ("the call", "the echo"))
    assert (1, [by_call, by_echo, by_echo]) == run(main())
    assert [by_call, by_echo] == heard[:2]
