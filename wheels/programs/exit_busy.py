"""Ends with status 7 while threads of another loop take and release the GIL all the time.

Before CPython 3.14 the interpreter ends these threads by unwinding their stacks, our frames included.
"""

import asyncio
import sys
import threading
import time

import threadlets

_begun = threading.Semaphore(0)


def _busy() -> None:
    _begun.release()
    while True:
        time.sleep(0)


async def _switch() -> None:
    while True:
        await asyncio.sleep(0)


async def _main() -> None:
    tasks = [asyncio.ensure_future(threadlets.call(_busy)) for _ in range(3)]
    tasks += [asyncio.ensure_future(_switch()) for _ in range(5)]
    await asyncio.gather(*tasks)


threading.Thread(target=threadlets.run, args=(_main(),), daemon=True).start()
assert all(_begun.acquire(timeout=10) for _ in range(3))
sys.exit(7)
