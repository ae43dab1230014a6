"""`walk`: folders and what is in them, several read at a time; `entries_of`: one folder's."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
from collections.abc import AsyncIterator, Callable
from typing import Any, AnyStr, Generic

from threadlets._core import Pending, Result, folder_entries
from threadlets.atoms import break_if, close, getdents, growing, loop, openat, statx
from threadlets.files.failures import failure
from threadlets.syslets import Syslet, sweep, syslet
from threadlets.syslets.syslet import running_loop

DEPTH = 16
"""How many folders are read ahead, unless one says otherwise."""

_UNKNOWN, _FOLDER, _FILE, _LINK = 0, 4, 8, 10
"""Types of entries, as the kernel tells them; a file system need not."""
_LINK_TO_FOLDER = -1
_STEPS_PER_TURN = 32
_ENTRIES_MAX = 2**40

OnError = Callable[[OSError], object]


@syslet
def _list(path: Any) -> Any:
    fd = yield openat(path, os.O_RDONLY | os.O_DIRECTORY)
    entries = growing(_ENTRIES_MAX)
    with loop():
        n = yield getdents(fd, entries)
        break_if(n == 0)
    yield close(fd)
    return entries


@syslet
def _mode(path: Any) -> Any:
    info = yield statx(path, mask=1)
    return info.mode


@syslet
def _own_mode(path: Any) -> Any:
    info = yield statx(path, mask=1, flags=0x100)
    return info.mode


async def entries_of(path: str | bytes) -> list[tuple[str, int]]:
    """Return the names in a folder, and their types as far as the file system tells.

    Raises:
        OSError: it cannot be read.
    """
    result = await _list(path)
    if result.errno:
        raise failure(result, path)
    return folder_entries(result.value)


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

    Up to `depth` folders that are next are read while the caller is busy with one.

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
    """A folder that is to be walked over; what is in it may be on its way, or known."""

    def __init__(self, path: AnyStr) -> None:
        self.path: AnyStr = path
        self.listing: Result | Pending | None = None
        self.dirnames: list[AnyStr] | None = None
        self.filenames: list[AnyStr] = []
        self.links: set[AnyStr] = set()
        """Those of `dirnames` that are links."""


class Walker(Generic[AnyStr]):
    """A walk, in depth first; those next in line are read ahead."""

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
        self._loop = running_loop()
        self._ahead: set[_Folder[AnyStr]] = set()
        # The next one is the last.
        self._stack: list[_Folder[AnyStr]] = [_Folder(top)]

    async def walk(self, topdown: bool) -> AsyncIterator[tuple[AnyStr, list[AnyStr], list[AnyStr]]]:
        """Walk from where it stands to the end."""
        for n_steps in itertools.count(1):
            if not self._stack:
                return
            if n_steps % _STEPS_PER_TURN == 0:
                # Where nothing blocks nothing waits: give the other tasks a turn.
                await asyncio.sleep(0)
            folder = self._stack[-1]
            if folder.dirnames is None:
                self._read_ahead()
                await self._read(folder)
                if folder.dirnames is None:
                    self._stack.pop()
                    continue
                if not topdown:
                    self._go_into(folder, folder.dirnames)
                    continue
            self._stack.pop()
            yield folder.path, folder.dirnames, folder.filenames
            if topdown:
                self._go_into(folder, folder.dirnames)

    async def close(self) -> None:
        """Stop what is read ahead."""
        while self._ahead:
            listing = self._ahead.pop().listing
            if isinstance(listing, Pending):
                await listing.cancel()

    def _go_into(self, folder: _Folder[AnyStr], dirnames: list[AnyStr]) -> None:
        for name in reversed(dirnames):
            if self._follow or name not in folder.links:
                self._stack.append(_Folder(os.path.join(folder.path, name)))

    def _read_ahead(self) -> None:
        for folder in self._stack[: -self._depth - 1 : -1]:
            if folder.listing is None:
                folder.listing = _list.native.begin(self._loop, (folder.path,))
                self._ahead.add(folder)

    async def _read(self, folder: _Folder[AnyStr]) -> None:
        listing = folder.listing
        if isinstance(listing, Pending):
            listing = (await asyncio.shield(listing.future)).result()
        self._ahead.discard(folder)
        folder.listing = None
        assert isinstance(listing, Result)
        if listing.errno:
            if self._on_error is not None:
                self._on_error(failure(listing, folder.path))
            return
        dirnames: list[AnyStr] = []
        for name, kind in await self._kinds(folder.path, folder_entries(listing.value)):
            if kind == _FOLDER:
                dirnames.append(name)
            elif kind == _LINK_TO_FOLDER:
                dirnames.append(name)
                folder.links.add(name)
            else:
                folder.filenames.append(name)
        folder.dirnames = dirnames

    async def _kinds(self, path: AnyStr, entries: list[Any]) -> list[tuple[AnyStr, int]]:
        """Return names and types, those the kernel did not tell and what links lead to included."""
        if isinstance(path, bytes):
            entries = [(os.fsencode(name), kind) for name, kind in entries]
        if not any(kind in (_UNKNOWN, _LINK) for _, kind in entries):
            return entries
        kinds = dict(entries)
        unknown = [name for name, kind in entries if kind == _UNKNOWN]
        for name, mode in zip(unknown, await self._modes(_own_mode, path, unknown), strict=True):
            kinds[name] = _FOLDER if stat.S_ISDIR(mode) else _LINK if stat.S_ISLNK(mode) else _FILE
        if self._looks_behind_links:
            links = [name for name, kind in kinds.items() if kind == _LINK]
            for name, mode in zip(links, await self._modes(_mode, path, links), strict=True):
                if stat.S_ISDIR(mode):
                    kinds[name] = _LINK_TO_FOLDER
        return list(kinds.items())

    async def _modes(self, program: Syslet[...], path: AnyStr, names: list[AnyStr]) -> list[int]:
        paths = [os.path.join(path, name) for name in names]
        async with sweep(program, paths) as results:
            return [result.value or 0 async for result in results]
