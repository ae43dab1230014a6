"""Functions that block: the loop runs meanwhile, and the awaiting tasks get results and errors."""

import asyncio
import threading

import threadlets


async def _main() -> None:
    gate = threading.Event()
    waiting = [asyncio.ensure_future(threadlets.call(gate.wait, 30)) for _ in range(20)]
    await asyncio.sleep(0.05)
    assert not any(call.done() for call in waiting)
    gate.set()
    assert [True] * 20 == await asyncio.gather(*waiting)
    try:
        await threadlets.call(int, "no number")
    except ValueError:
        return
    raise AssertionError("the error was lost")


threadlets.run(_main())
