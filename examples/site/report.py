"""A report that blocks: it compresses and hashes a source file and waits for a slow partner."""

from __future__ import annotations

import asyncio
import hashlib
import time
import zlib
from pathlib import Path

import threadlets

PARTNER_DELAY_S = 0.02
_SOURCE = Path(asyncio.__file__).with_name("base_events.py")


async def report() -> dict[str, object]:
    """Make the report in a threadlet: while it blocks, the loop goes on."""
    return await threadlets.call(make_report, _SOURCE)


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
