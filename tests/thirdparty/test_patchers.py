"""Packages that replace parts of asyncio: nested loops, virtual clocks, guards against blocking."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import asyncio, sys, time, warnings
import threadlets
"""


def run(script: str, package: str) -> None:
    """Run a script in a process of its own, because it replaces parts of the process."""
    pytest.importorskip(package)
    source = PRELUDE + textwrap.dedent(script)
    ran = subprocess.run(
        # nest_asyncio uses event loop policies, which CPython 3.14 deprecates.
        [
            sys.executable,
            *("-W", "error", "-W", "ignore::DeprecationWarning:nest_asyncio"),
            "-c",
            source,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (0, "done") == (ran.returncode, ran.stdout.strip()), ran.stderr


NESTED = """
    import nest_asyncio

    async def inner(seconds=0.001):
        await asyncio.sleep(seconds)
        return await asyncio.to_thread(lambda: 42)

    async def deep(loop, depth):
        return loop.run_until_complete(deep(loop, depth - 1)) if depth else await inner()

    async def main():
        loop = asyncio.get_running_loop()
        APPLY
        me = asyncio.current_task()
        background = asyncio.create_task(asyncio.sleep(0.01, "background"))
        assert loop.run_until_complete(inner()) == 42
        assert asyncio.run(inner(0)) == 42
        assert loop.run_until_complete(deep(loop, 5)) == 42
        assert asyncio.current_task() is me
        results = loop.run_until_complete(asyncio.gather(*(inner() for _ in range(10))))
        assert results == [42] * 10
        assert asyncio.run(threadlets.call(time.sleep, 0.02)) is None
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1")
        address = server.sockets[0].getsockname()

        async def connect():
            reader, writer = await asyncio.open_connection(*address)
            data = await reader.read()
            writer.close()
            return data

        assert loop.run_until_complete(connect()) == b""
        server.close()
        assert await background == "background"
        assert {it.get_name() for it in asyncio.all_tasks()} >= {me.get_name()}
        return "done"

    loop = threadlets.new_event_loop()
    loop.set_debug(DEBUG)
    asyncio.set_event_loop(loop)
    BEFORE
    print(loop.run_until_complete(main()))
    other = threadlets.new_event_loop()
    assert other.run_until_complete(inner()) == 42
    for it in (loop, other):
        it.run_until_complete(it.shutdown_default_executor())
        it.close()
    # Since CPython 3.14 asyncio does not find the current task of the class that it is given here.
    if sys.version_info < (3, 14):
        stock = asyncio.SelectorEventLoop()
        assert stock.run_until_complete(inner()) == 42
        stock.run_until_complete(stock.shutdown_default_executor())
        stock.close()
"""


@pytest.mark.parametrize("when", ["before", "while it runs"])
@pytest.mark.parametrize("debug", [False, True])
def test_nest_asyncio(when: str, debug: bool) -> None:
    """A loop can run nested in itself, while the outer program and other loops go on."""
    apply = "nest_asyncio.apply()"
    script = NESTED.replace("DEBUG", str(debug))
    script = script.replace("APPLY", "pass" if when == "before" else apply)
    run(script.replace("BEFORE", apply if when == "before" else "pass"), "nest_asyncio")


def test_nest_asyncio_of_another_loop() -> None:
    """Native tasks pass for the classes that it replaces; the runner still finds and cancels them."""
    run(
        """
        import nest_asyncio

        threadlets.run(asyncio.sleep(0))
        stock = asyncio.SelectorEventLoop()
        asyncio.set_event_loop(stock)
        original = asyncio.Task
        nest_asyncio.apply()
        ended = []

        async def background():
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)

        async def main():
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
            for found in (task, asyncio.current_task()):
                assert isinstance(found, asyncio.Task)
                assert isinstance(found, original)
                assert found in asyncio.all_tasks()
            assert isinstance(asyncio.get_running_loop().create_future(), asyncio.Future)

        threadlets.run(main())
        assert ended
        stock.close()
        print("done")
        """,
        "nest_asyncio",
    )


def test_looptime() -> None:
    """Hours pass at once, on a patched loop or on a loop class that looptime made."""
    run(
        """
        import looptime

        async def main():
            loop = asyncio.get_running_loop()
            start = loop.time()
            await asyncio.sleep(3600)
            try:
                async with asyncio.timeout(100):
                    await asyncio.Event().wait()
            except TimeoutError:
                pass
            await asyncio.to_thread(time.sleep, 0.01)
            return loop.time() - start

        began = time.monotonic()
        patched = looptime.patch_event_loop(threadlets.new_event_loop(), start=0)
        made = looptime.make_event_loop_class(threadlets.Loop)(start=0, idle_step=0.01)
        switched = looptime.patch_event_loop(threadlets.new_event_loop(), _enabled=False)
        with switched.looptime_enabled():
            assert switched.run_until_complete(main()) >= 3700
        for loop in (patched, made):
            assert loop.run_until_complete(main()) >= 3700
        for loop in (patched, made, switched):
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
        assert time.monotonic() - began < 30
        print("done")
        """,
        "looptime",
    )


def test_blockbuster_in_debug_mode() -> None:
    """Its guard is a `threading.local` that is always reset between two steps."""
    run(
        """
        import os
        from blockbuster import blockbuster_ctx

        async def stats():
            for _ in range(3):
                os.stat("/")
                await asyncio.sleep(0)

        async def main():
            with blockbuster_ctx(scanned_modules=["json"]):
                await asyncio.gather(stats(), stats())

        threadlets.run(main(), debug=True)
        print("done")
        """,
        "blockbuster",
    )
