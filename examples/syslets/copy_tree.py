"""Copy a folder with its contents: ``python -m examples.syslets.copy_tree SOURCE TARGET``.

Folders are made level by level; files are copied and links made many at a time. Modes are kept,
times and owners are not. The target must not exist. `--verify` reads both trees again and compares.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from threadlets import Syslet, sweep, syslet
from threadlets.atoms import (
    break_if,
    close,
    loop,
    mkdirat,
    openat,
    sendfile,
    statx,
    symlinkat,
)

from .checksum import checksums

_CHUNK_BYTES = 1 << 30

Failure = tuple[str, OSError]


@syslet
def copy_file(source, target):
    src = yield openat(source)
    info = yield statx(dir_fd=src)
    dst = yield openat(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, info.mode)
    with loop():
        n = yield sendfile(dst, src, None, _CHUNK_BYTES)
        break_if(n == 0)
    yield close(src)
    yield close(dst)


@syslet
def make_folder(path, mode):
    yield mkdirat(path, mode)


@syslet
def make_link(content, path):
    yield symlinkat(content, path)


@dataclass
class Tree:
    """The contents of a folder, by paths relative to it; the folder itself is ""."""

    levels: list[dict[str, int]] = field(default_factory=list)
    """Folders and their modes, by depth."""
    files: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def survey(root: str) -> Tree:
    """List everything below a folder; links are not followed."""
    tree = Tree()
    level = {"": os.stat(root).st_mode}
    while level:
        tree.levels.append(level)
        below: dict[str, int] = {}
        for folder in level:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    path = os.path.join(folder, entry.name)
                    if entry.is_symlink():
                        tree.links[path] = os.readlink(entry.path)
                    elif entry.is_dir():
                        below[path] = entry.stat().st_mode
                    elif entry.is_file():
                        tree.files.append(path)
                    else:
                        tree.others.append(path)
        level = below
    return tree


def copy_tree(source: str, target: str) -> list[Failure]:
    """Copy a folder, and return what could not be copied, by its path in the source.

    Raises:
        FileExistsError: there is something at `target` already.
        OSError: `source`, or a folder below it, cannot be read.
    """
    tree = survey(source)

    def to(path: str) -> str:
        return os.path.join(target, path) if path else target

    # Folders stay writable to their owner until they are complete.
    failures: list[Failure] = []
    with _umask(0):
        os.mkdir(target, 0o700)
        for level in tree.levels[1:]:
            folders = [(to(path), mode | stat.S_IRWXU) for path, mode in level.items()]
            failures += _failures(make_folder, folders, level)
        files = [(os.path.join(source, path), to(path)) for path in tree.files]
        failures += _failures(copy_file, files, tree.files)
        links = [(content, to(path)) for path, content in tree.links.items()]
        failures += _failures(make_link, links, tree.links)
    for level in reversed(tree.levels):
        for path, mode in level.items():
            if not path or mode & stat.S_IRWXU != stat.S_IRWXU:
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(to(path), stat.S_IMODE(mode))
    return failures + [(path, _no_file(path)) for path in tree.others]


def differences(source: str, target: str) -> list[str]:
    """Return the paths that differ between two folders: in names, contents, links or modes."""
    here, there = _described(source), _described(target)
    return sorted(path for path in here.keys() | there if here.get(path) != there.get(path))


def _failures(program: Syslet[...], inputs: list[Any], paths: Iterable[str]) -> list[Failure]:
    results = sweep(program, inputs)
    return [
        (path, result.error)
        for path, result in zip(paths, results, strict=True)
        if result.error is not None
    ]


def _no_file(path: str) -> OSError:
    return OSError(errno.EOPNOTSUPP, "neither a file, a folder nor a link", path)


def _described(root: str) -> dict[str, object]:
    tree = survey(root)
    described: dict[str, object] = {**tree.links}
    for level in tree.levels:
        described |= level
    paths = [os.path.join(root, path) for path in tree.files]
    for path, outcome in checksums(paths):
        mode = os.stat(path).st_mode
        described[os.path.relpath(path, root)] = (mode, str(outcome))
    return described


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def main() -> int:
    parser = argparse.ArgumentParser(prog="copy_tree", description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--verify", action="store_true", help="read both trees again, and compare")
    options = parser.parse_args()
    try:
        failures = copy_tree(options.source, options.target)
    except OSError as error:
        print(f"copy_tree: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    for path, error in failures:
        print(f"copy_tree: {path}: {error.strerror}", file=sys.stderr)
    different = differences(options.source, options.target) if options.verify else []
    for path in different:
        print(f"copy_tree: {path}: differs in the copy", file=sys.stderr)
    return 1 if failures or different else 0


if __name__ == "__main__":
    sys.exit(main())
