"""The control groups around this process, of both versions: where their limits are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


def group_folders(
    controller: str, *, membership: Path = MEMBERSHIP, root: Path = ROOT
) -> Iterator[tuple[int, Path]]:
    """Yield version (1 or 2) and folder of each group around this process, the innermost first.

    Of version 1 only the groups of `controller` ("cpu", "memory", "pids"). A folder need not exist.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        # hierarchy:controllers:path; version 2 has hierarchy 0 and no controllers.
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # In a container, what is mounted may be the group itself: then its path is not there.
        if hierarchy == "0" and not controllers:
            for folder in _up(root, path):
                yield 2, folder
        elif controller in controllers.split(","):
            for mount in (root / controller, root / controllers):
                for folder in _up(mount, path):
                    yield 1, folder


def _up(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and of each group around it, the root last."""
    folder = root / path.lstrip("/")
    while folder != root:
        yield folder
        folder = folder.parent
    yield root
