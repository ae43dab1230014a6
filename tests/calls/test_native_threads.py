"""Threads of the loop are threads to `threading`: traced, profiled, named, joined, forked from."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import threadlets

from .harness import Gate

pytestmark = pytest.mark.starts("inline", "beside")


async def _on_another_thread(what: Callable[[], Any]) -> Any:
    """Call `what` beside the dispatcher, or as a request while a function blocks the home thread."""
    if asyncio.get_running_loop()._start == "beside":  # type: ignore[attr-defined]
        return await threadlets.call(what)
    gate = Gate()
    blocked = asyncio.create_task(threadlets.call(gate))
    await gate.entered.wait()
    try:
        assert threading.current_thread() is not threading.main_thread()
        return what()
    finally:
        gate.open()
        await blocked


def test_a_thread_of_the_loop_can_be_found_and_joined(run: Any) -> None:
    thread = run(_on_another_thread(threading.current_thread))
    assert "NativeThread" == type(thread).__name__
    assert thread.name.startswith("threadlets-")
    assert thread.daemon
    thread.join(10)
    assert not thread.is_alive()
    assert thread not in threading.enumerate()


def test_its_numbers_are_the_systems_own(run: Any) -> None:
    def numbers() -> tuple[Any, ...]:
        thread = threading.current_thread()
        assert thread.is_alive()
        assert thread in threading.enumerate()
        ours = (thread.ident, thread.native_id)
        return ours, (threading.get_ident(), threading.get_native_id())

    ours, systems = run(_on_another_thread(numbers))
    assert systems == ours


@pytest.mark.parametrize("kind", ["trace", "profile"])
def test_functions_on_it_are_traced_and_profiled(run: Any, kind: str) -> None:
    seen: set[str] = set()
    before = getattr(threading, f"get{kind}")()
    here = getattr(sys, f"get{kind}")()

    def noted() -> None:
        pass

    def hook(frame: Any, event: str, arg: Any) -> None:
        if frame.f_code is noted.__code__:
            seen.add(threading.current_thread().name)

    getattr(threading, f"set{kind}")(hook)
    try:
        run(_on_another_thread(noted))
    finally:
        getattr(threading, f"set{kind}")(before)
    assert [name for name in seen if name.startswith("threadlets-")] == list(seen) != []
    assert getattr(sys, f"get{kind}")() is here


def _child(answers: Any) -> None:
    async def main() -> str:
        await asyncio.gather(*(threadlets.call(time.sleep, 0.001) for _ in range(3)))
        return threading.current_thread().name

    answers.put((threadlets.run(main()), threading.current_thread() is threading.main_thread()))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_that_it_forks_has_a_main_thread_and_ends_well(run: Any) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def fork() -> Any:
        child = context.Process(target=_child, args=(answers,))
        child.start()
        return child

    child = run(_on_another_thread(fork))
    child.join(10)
    assert 0 == child.exitcode
    assert answers.get()[1]
