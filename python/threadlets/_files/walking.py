"""`walk`: folders and their entries; folders that are not in the cache are read several at a time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, AnyStr, Generic

from threadlets import _core
from threadlets._files.arguments import size_of
from threadlets._public import set_module
from threadlets._running import running_dispatcher

DEPTH = 16
"""The default for the number of folders that are read ahead at a time."""

_SLOW_NS, _SLOW_NS_PER_ENTRY = 200_000, 2_000
"""A folder that takes longer was not in the cache; blocking with a take-over takes about as long."""
_N_AHEAD = 64
"""For how many folders after a slow one the walk reads ahead."""

OnError = Callable[[OSError], object]


@set_module("threadlets")
async def walk(
    top: AnyStr | os.PathLike[AnyStr],
    *,
    topdown: bool = True,
    on_error: OnError | None = None,
    follow_symlinks: bool = False,
    depth: int = DEPTH,
) -> AsyncIterator[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
    """Walk the folder `top` and all below it: (path, names of folders, names of files) for each.

    The order is that of `os.walk`. With `topdown`, the caller may sort the list of folders, or remove
    some, which are then skipped; otherwise a folder comes before the one that it is in. Links to
    folders are among the folders, and are followed only if `follow_symlinks`. A folder that cannot be
    read is left out, after `on_error` was called with the exception.

    After a folder that was not in the cache, up to `depth` of the next ones are read at a time.

    Raises:
        ValueError: `depth` is less than 1.
    """
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
    """A folder to walk; its entries are not read yet, being read ahead, or read."""

    def __init__(self, path: AnyStr) -> None:
        self.path: AnyStr = path
        self.reading: asyncio.Task[None] | None = None
        self.is_read = False
        self.dirnames: list[AnyStr] = []
        self.filenames: list[AnyStr] = []
        self.links: set[AnyStr] = set()
        """Those of `dirnames` that are links."""

    def read(self, looks_behind_links: bool) -> None:
        """Read the entries; to be called as a threadlet.

        Raises:
            OSError: the folder cannot be read.
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
    """A walk, depth first.

    A folder is read when the walk gets to it, as a threadlet: that is cheapest if it is in the cache.
    After a slow one, the next folders are read ahead for a while, each by a task.
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
        self._depth = size_of(depth)
        if self._depth < 1:
            raise ValueError(f"depth is {depth}; at least one folder is read at a time")
        self._looks_behind_links = links_are_folders or follow_symlinks
        self._loop = running_dispatcher("which has no threadlets; use threadlets.run(main())")
        self._ahead: set[asyncio.Task[None]] = set()
        #: For how many more folders the walk reads ahead.
        self._n_ahead = 0
        # The folder at the end is the next one.
        self._stack: list[_Folder[AnyStr]] = [_Folder(top)]

    async def walk(self, topdown: bool) -> AsyncIterator[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
        """Walk from the next folder to the end."""
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
        """Cancel the tasks that read ahead."""
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
