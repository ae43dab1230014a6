"""Write the seeds of the fuzzer, which are some cases of the tables: `python tests/http/write_fuzz_seeds.py`."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import cases_http2
from cases import PROBE
from test_http1_messages import TABLES

FOLDER = Path(__file__).parents[2] / "crates" / "http" / "fuzz" / "seeds"

# The first two bytes say how the fuzzer's harness cuts the others: not at all; by bytes; by 20 and 1 bytes.
CUTS = (b"\0\0", b"@@", b"S@")
_PER_TABLE = 3
_BYTES_MAX = 300


def spread(cases: Iterable[bytes], n_cases: int) -> list[bytes]:
    """Return some cases that are not long, from the first on."""
    short = [it for it in cases if len(it) <= _BYTES_MAX]
    return short[:: max(1, len(short) // n_cases)][:n_cases]


def seeds() -> dict[str, list[bytes]]:
    """Return the seeds of each fuzz target."""
    http1 = [
        case + PROBE
        for table in TABLES.values()
        for case in spread((it.sent for it in table), _PER_TABLE)
    ]
    tables = (cases_http2.FRAMES, cases_http2.REQUESTS)
    http2 = [case for table in tables for case in spread((it.sent for it in table), 15)]
    return {
        "http1": [CUTS[i % 3] + it for i, it in enumerate(http1)],
        "http2": [CUTS[i % 3] + it for i, it in enumerate(http2)],
    }


def main() -> None:
    """Replace the seeds."""
    for target, inputs in seeds().items():
        folder = FOLDER / target
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for data in inputs:
            # As libFuzzer names what it finds.
            name = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            (folder / f"{name}.bin").write_bytes(data)


if __name__ == "__main__":
    main()
