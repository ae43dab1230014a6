"""`walk`: folders and what is in them; those that are not in the cache are read several at a time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, AnyStr, Generic

from threadlets import _core
from threadlets.running import running_dispatcher

DEPTH = 16
"""How many folders are read ahead, unless one says otherwise."""

_SLOW_NS, _SLOW_NS_PER_ENTRY = 200_000, 2_000
"""A folder that takes longer is not in the cache; to block and to be relieved takes as long."""
_N_AHEAD = 64
"""How many folders are read ahead after a slow one, before one is read where it stands again."""

OnError = Callable[[OSError], object]


async def walk(
    top: AnyStr | os.PathLike[AnyStr],
    *,
    topdown: bool = True,
    on_error: OnError | None = None,
    follow_symlinks: bool = False,
    depth: int = DEPTH,
) -> AsyncIterator[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
    """Walk over the folder `top` and all below it: (path, names of folders, names of files) of each.

    As `os.walk` does, in its order: `topdown`, one may remove folders from the list or sort it, and
    they are not walked over; otherwise folders come before what they are in. Links to folders
    are among the folders, and followed only if `follow_symlinks`. A folder that cannot be read is
    left out, after `on_error` was called with the exception.

    After a folder that was not in the cache, up to `depth` that are next are read at a time.

    Raises:
        ValueError: `depth` is less than 1.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; one folder at least is read at a time")
    walker: Walker[AnyStr] = Walker(
        os.fspath(top),
        on_error=on_error,
        follow_symlinks=follow_symlinks,
        depth=depth,
        links_are_folders=True,
    )
    try:
        async for found in walker.walk(topdown):
            yield found
    finally:
        await walker.close()


class _Folder(Generic[AnyStr]):
    """A folder that is to be walked over; what is in it may be on its way, or there."""

    def __init__(self, path: AnyStr) -> None:
        self.path: AnyStr = path
        self.reading: asyncio.Task[None] | None = None
        self.is_read = False
        self.dirnames: list[AnyStr] = []
        self.filenames: list[AnyStr] = []
        self.links: set[AnyStr] = set()
        """Those of `dirnames` that are links."""

    def read(self, looks_behind_links: bool) -> None:
        """Read what is in it, as a threadlet.

        Raises:
            OSError: it cannot be read.
        """
        with os.scandir(self.path) as entries:
            for entry in entries:
                if not _is_folder(entry, looks_behind_links):
                    self.filenames.append(entry.name)
                    continue
                self.dirnames.append(entry.name)
                if looks_behind_links and entry.is_symlink():
                    self.links.add(entry.name)


def _is_folder(entry: os.DirEntry[Any], looks_behind_links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=looks_behind_links)
    except OSError:
        return False


class Walker(Generic[AnyStr]):
    """A walk, in depth first.

    Folders are read where the walk stands, as threadlets: that costs least where they are in the cache.
    If one was slow, those next in line are read ahead for a while, each by a task.
    """

    def __init__(
        self,
        top: AnyStr,
        *,
        on_error: OnError | None,
        follow_symlinks: bool,
        depth: int,
        links_are_folders: bool,
    ) -> None:
        self._on_error = on_error
        self._follow = follow_symlinks
        self._depth = depth
        self._looks_behind_links = links_are_folders or follow_symlinks
        self._loop = running_dispatcher("which has no threadlets; use threadlets.run(main())")
        self._ahead: set[asyncio.Task[None]] = set()
        #: How many folders more are to be read ahead.
        self._n_ahead = 0
        # The next one is the last.
        self._stack: list[_Folder[AnyStr]] = [_Folder(top)]

    async def walk(self, topdown: bool) -> AsyncIterator[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
        """Walk from where it stands to the end."""
        while self._stack:
            await _core.checkpoint
            folder = self._stack[-1]
            if not folder.is_read:
                try:
                    await self._read(folder)
                    folder.is_read = True
                except OSError as error:
                    self._stack.pop()
                    if self._on_error is not None:
                        self._on_error(error)
                    continue
                if not topdown:
                    self._go_into(folder)
                    continue
            self._stack.pop()
            yield folder.path, folder.dirnames, folder.filenames
            if topdown:
                self._go_into(folder)

    async def close(self) -> None:
        """Stop what is read ahead."""
        for task in self._ahead:
            task.cancel()
        await asyncio.gather(*self._ahead, return_exceptions=True)

    def _go_into(self, folder: _Folder[AnyStr]) -> None:
        for name in reversed(folder.dirnames):
            if self._follow or name not in folder.links:
                self._stack.append(_Folder(os.path.join(folder.path, name)))

    async def _read(self, folder: _Folder[AnyStr]) -> None:
        if self._n_ahead > 0:
            self._n_ahead -= 1
            self._read_ahead()
        if folder.reading is not None:
            self._ahead.discard(folder.reading)
            await folder.reading
            return
        started_ns = time.monotonic_ns()
        await _core.call(folder.read, self._looks_behind_links)
        n_entries = len(folder.dirnames) + len(folder.filenames)
        if time.monotonic_ns() - started_ns > _SLOW_NS + n_entries * _SLOW_NS_PER_ENTRY:
            self._n_ahead = _N_AHEAD

    def _read_ahead(self) -> None:
        for folder in self._stack[: -self._depth - 1 : -1]:
            if folder.reading is None and not folder.is_read:
                reading = _core.call(folder.read, self._looks_behind_links)
                folder.reading = self._loop.create_task(reading)
                self._ahead.add(folder.reading)
