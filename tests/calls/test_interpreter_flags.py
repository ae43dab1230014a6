"""Options of CPython: contexts that threads inherit, warning filters by context, monitoring."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
import threadlets

from .harness import Gate, outcome

pytestmark = pytest.mark.starts("inline", "beside")

has_flags = pytest.mark.skipif(sys.version_info < (3, 14), reason="the flags are CPython 3.14's")


def _options(**flags: bool) -> list[str]:
    return [it for name, on in flags.items() for it in ("-X", f"{name}={int(on)}")]


@has_flags
@pytest.mark.parametrize("inherits", [False, True])
@pytest.mark.parametrize("is_debug", [False, True])
def test_threads_inherit_the_context_of_a_threadlet(
    script: Any, inherits: bool, is_debug: bool
) -> None:
    """A function sees its caller's variables; a thread that it starts sees them if threads inherit."""
    process = script(
        f"""
        import contextvars
        var = contextvars.ContextVar("var", default="nobody's")

        def thread():
            seen = []
            started = threading.Thread(target=lambda: seen.append(var.get()))
            started.start()
            started.join()
            return var.get(), *seen

        def callback(future):
            var.set("callback's")
            future.set_result(thread())

        async def caller(name):
            var.set(name)
            loop = asyncio.get_running_loop()
            for _ in range(3):
                yield await threadlets.call(thread)
                yield await asyncio.to_thread(thread)
                future = loop.create_future()
                loop.call_soon_threadsafe(callback, future)
                await future

        async def main():
            for name in "one", "other":
                expected = (name, name if {inherits} else "nobody's")
                async for seen in caller(name):
                    assert seen == expected, (seen, expected)
            print("done")

        threadlets.run(main(), debug={is_debug})
        """,
        *_options(thread_inherit_context=inherits),
    )
    assert (0, "done\n", "") == outcome(process)


@has_flags
@pytest.mark.parametrize("is_debug", [False, True])
def test_filters_of_warnings_go_with_their_task(script: Any, is_debug: bool) -> None:
    """A task's warning filters apply in the functions that it calls, and in no other task."""
    process = script(
        f"""
        import warnings

        def warn(name):
            time.sleep(0.001)
            warnings.warn(name, stacklevel=1)
            return name

        async def quiet(name):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in range(20):
                    assert await threadlets.call(warn, name) == name

        async def strict(name):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for _ in range(20):
                    try:
                        await threadlets.call(warn, name)
                    except UserWarning as warning:
                        assert str(warning) == name
                    else:
                        raise AssertionError(name)

        async def records(name):
            with warnings.catch_warnings(record=True) as recorded:
                warnings.simplefilter("always")
                for _ in range(20):
                    await threadlets.call(warn, name)
            assert [str(it.message) for it in recorded] == [name] * 20

        async def main():
            tasks = [make(f"{{make.__name__}} {{n}}") for n in range(3) for make in (quiet, strict, records)]
            await asyncio.gather(*tasks)
            print("done")

        threadlets.run(main(), debug={is_debug})
        """,
        *_options(context_aware_warnings=True, thread_inherit_context=True),
    )
    assert (0, "done\n", "") == outcome(process)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is CPython 3.12's")
def test_monitoring_sees_functions_on_all_threads(run: Any, start: str) -> None:
    """`sys.monitoring` reports each start and each return on the thread where it happens."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    tool = monitoring.PROFILER_ID
    seen: list[tuple[str, str]] = []

    def counted() -> None: ...

    async def step() -> None:
        gate = Gate()
        blocked = asyncio.create_task(threadlets.call(gate))
        await gate.entered.wait()
        # While a function blocks, this runs on another thread if the function was called inline.
        counted()
        gate.open()
        await blocked

    def note(event: str) -> Any:
        def callback(code: Any, _offset: int, *_value: Any) -> None:
            if code is counted.__code__:
                seen.append((event, threading.current_thread().name))

        return callback

    async def main() -> None:
        await step()
        for _ in range(5):
            await threadlets.call(counted)

    monitoring.use_tool_id(tool, "test")
    try:
        events = monitoring.events
        monitoring.register_callback(tool, events.PY_START, note("start"))
        monitoring.register_callback(tool, events.PY_RETURN, note("return"))
        monitoring.set_events(tool, events.PY_START | events.PY_RETURN)
        run(main())
    finally:
        monitoring.set_events(tool, 0)
        for event in (monitoring.events.PY_START, monitoring.events.PY_RETURN):
            monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)
    assert ["start", "return"] * 6 == [event for event, _ in seen]
    names = {name for _, name in seen}
    assert any(name.startswith("threadlets-") for name in names)
    assert (seen[0][1] == "MainThread") is (start == "beside")
