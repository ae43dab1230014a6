"""Print the SHA-256 of every file below some folders: ``python -m examples.syslets.checksum DIR…``.

The output is that of sha256sum. One run opens, reads and closes a small file; a large file is read
in pieces, many at a time, whose results come in their order.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator

from threadlets import sweep, syslet
from threadlets.atoms import close, lease, openat, pread, read, statx, stop_if

SMALL_BYTES = 128 * 1024
PIECE_BYTES = 1024 * 1024
N_PIECES = 16


@syslet
def read_small(path):
    """Return a small file's content, or a large one's size."""
    fd = yield openat(path)
    info = yield statx(dir_fd=fd)
    stop_if(info.size > SMALL_BYTES, info.size)
    content = yield read(fd, SMALL_BYTES)
    yield close(fd)
    return lease(content)


@syslet
def read_piece(path, offset):
    """Return the piece of a file's content that begins at `offset`."""
    fd = yield openat(path)
    piece = yield pread(fd, PIECE_BYTES, offset)
    yield close(fd)
    return lease(piece)


def files_below(root: str) -> Iterator[str]:
    """Iterate over the paths of the regular files in a tree; links are not followed."""
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path


def checksums(paths: Iterable[str]) -> Iterator[tuple[str, str | OSError]]:
    """Iterate over files with their checksums or their errors; small files come first."""
    sizes: dict[str, int] = {}
    for result in sweep(read_small, paths):
        if not result.ok:
            yield result.input, result.error
        elif isinstance(result.value, int):
            sizes[result.input] = result.value
        else:
            with result.value as content:
                yield result.input, hashlib.sha256(content).hexdigest()
    yield from _checksums_of_large(sizes)


def _checksums_of_large(sizes: dict[str, int]) -> Iterator[tuple[str, str | OSError]]:
    pieces = (
        (path, offset) for path, size in sizes.items() for offset in range(0, size, PIECE_BYTES)
    )
    digest = hashlib.sha256()
    error: OSError | None = None
    for result in sweep(read_piece, pieces, depth=N_PIECES):
        path, offset = result.input
        if result.ok:
            with result.value as content:
                digest.update(content)
        else:
            error = error or result.error
        if offset + PIECE_BYTES >= sizes[path]:
            yield path, error or digest.hexdigest()
            digest, error = hashlib.sha256(), None


def main() -> int:
    parser = argparse.ArgumentParser(prog="checksum", description=__doc__)
    parser.add_argument("roots", nargs="+", metavar="DIR", help="where to look for files")
    options = parser.parse_args()
    n_failed = 0
    for path, outcome in checksums(path for root in options.roots for path in files_below(root)):
        if isinstance(outcome, OSError):
            n_failed += 1
            print(f"checksum: {path}: {outcome.strerror}", file=sys.stderr)
        else:
            print(f"{outcome}  {path}")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
