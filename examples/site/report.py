"""A report that blocks: it compresses and hashes a source file and waits for a slow partner.

`call_blocking` is the one place that knows how blocking functions are called.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

PARTNER_DELAY_S = 0.02
_SOURCE = Path(asyncio.__file__).with_name("base_events.py")


async def call_blocking(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function that may block, without holding up the loop."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def report() -> dict[str, object]:
    return await call_blocking(make_report, _SOURCE)


def make_report(source: Path) -> dict[str, object]:
    """Read, compress and hash `source`; the sleep stands for a database or a slow service."""
    begin = time.perf_counter()
    text = source.read_bytes()
    compressed = zlib.compress(text, level=6)
    digest = hashlib.sha256(compressed).hexdigest()
    time.sleep(PARTNER_DELAY_S)
    return {
        "file": source.name,
        "n_bytes": len(text),
        "n_bytes_compressed": len(compressed),
        "sha256": digest,
        "elapsed_ms": round((time.perf_counter() - begin) * 1000, 3),
    }
