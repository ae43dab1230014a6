"""Watches files for `--reload`: by watchfiles where that is installed, otherwise by looking twice a second."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import importlib.util
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_PERIOD_S = 0.5
_INCLUDED = ("*.py",)
_EXCLUDED = (".*", "*~", "__pycache__", "node_modules", "*.py[cod]", "*.sw[a-p]")


@dataclasses.dataclass(frozen=True)
class Patterns:
    """Which files are watched, by their names; hidden files and folders are not."""

    #: Beside Python files.
    included: Sequence[str] = ()
    #: Files, and whole folders.
    excluded: Sequence[str] = ()

    def match(self, root: str, path: str) -> bool:
        """Return whether a file below `root` is watched."""
        *folders, name = Path(path).relative_to(root).parts
        if any(self.excludes(folder) for folder in folders):
            return False
        return self.match_name(name)

    def match_name(self, name: str) -> bool:
        """Return whether a file in a folder that is watched is, too."""
        is_included = any(fnmatch.fnmatch(name, it) for it in (*_INCLUDED, *self.included))
        return is_included and not self.excludes(name)

    def excludes(self, name: str) -> bool:
        """Return whether a file or a folder of this name is left out."""
        return any(fnmatch.fnmatch(name, it) for it in (*_EXCLUDED, *self.excluded))


class Watcher:
    """Watches folders in a thread; `fd` is readable once something has changed."""

    def __init__(
        self, folders: Sequence[str], patterns: Patterns, *, use_watchfiles: bool | None = None
    ) -> None:
        if use_watchfiles is None:
            use_watchfiles = importlib.util.find_spec("watchfiles") is not None
        self._folders = [os.path.realpath(it) for it in folders]
        self._patterns = patterns
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._changed: set[str] = set()
        self._lock = threading.Lock()
        self._is_stopped = threading.Event()
        # The first look is taken here: what changes from now on is noticed.
        watch = self._watch_events if use_watchfiles else self._look_again
        self._thread = threading.Thread(
            target=watch, args=(self._look(),), name="threadlets-reload", daemon=True
        )
        self._thread.start()

    def take_changed(self) -> list[str]:
        """Return the paths that have changed since the last call, in order."""
        with self._lock, contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        with self._lock:
            changed, self._changed = sorted(self._changed), set()
        return changed

    def close(self) -> None:
        """Stop watching."""
        self._is_stopped.set()
        self._thread.join()
        os.close(self.fd)
        os.close(self._write_fd)

    # -- in the thread --

    def _report(self, paths: set[str]) -> None:
        if not paths:
            return
        with self._lock:
            self._changed |= paths
            # A full pipe is readable already.
            with contextlib.suppress(BlockingIOError):
                os.write(self._write_fd, b"c")

    def _watch_events(self, _seen: Mapping[str, tuple[int, int]]) -> None:
        import watchfiles

        def is_watched(_change: watchfiles.Change, path: str) -> bool:
            roots = [it for it in self._folders if path.startswith(f"{it}{os.sep}")]
            return any(self._patterns.match(it, path) for it in roots)

        for changes in watchfiles.watch(
            *self._folders, watch_filter=is_watched, stop_event=self._is_stopped, rust_timeout=200
        ):
            self._report({path for _, path in changes})

    def _look_again(self, seen: Mapping[str, tuple[int, int]]) -> None:
        while not self._is_stopped.wait(_PERIOD_S):
            now = self._look()
            self._report({path for path, _ in seen.items() ^ now.items()})
            seen = now

    def _look(self) -> dict[str, tuple[int, int]]:
        """Return the time of change and the size of each file that is watched."""
        return {path: state for root in self._folders for path, state in self._files(root)}

    def _files(self, root: str) -> Iterator[tuple[str, tuple[int, int]]]:
        for folder, folders, names in os.walk(root):
            folders[:] = [it for it in folders if not self._patterns.excludes(it)]
            for name in filter(self._patterns.match_name, names):
                path = os.path.join(folder, name)
                # It may be gone already.
                with contextlib.suppress(OSError):
                    found = os.stat(path)
                    yield path, (found.st_mtime_ns, found.st_size)
