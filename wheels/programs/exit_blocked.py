"""Ends with status 7 while functions block, on threads of another thread's loop."""

import asyncio
import sys
import threading

import threadlets

_begun = threading.Semaphore(0)


def _block() -> None:
    _begun.release()
    threading.Event().wait()


async def _main() -> None:
    await asyncio.gather(*(threadlets.call(_block) for _ in range(4)))


threading.Thread(target=threadlets.run, args=(_main(),), daemon=True).start()
assert all(_begun.acquire(timeout=10) for _ in range(4))
sys.exit(7)
