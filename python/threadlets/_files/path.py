"""`Path`: a path as in `pathlib`; methods that touch files are to be awaited."""

from __future__ import annotations

import io
import os
import pathlib
import stat as stat_module
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self, TypeAlias

from threadlets import _core
from threadlets._files.arguments import int_of
from threadlets._files.copying import copy_file
from threadlets._files.failures import PathLike, failure, is_missing
from threadlets._files.opening import Opener, Opening, open  # noqa: A004
from threadlets._files.walking import DEPTH, OnError, Walker
from threadlets._files.whole import read_file, write_file
from threadlets._public import set_module
from threadlets._syslets.program import Syslet, syslet
from threadlets.atoms import (
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW,
    linkat,
    mkdirat,
    renameat,
    statx,
    symlinkat,
    unlinkat,
)

_MATCHES_AT_ONCE = 64

Text: TypeAlias = str | os.PathLike[str]
"""A path that is not of bytes."""


@syslet
def _stat(path: Any, flags: Any) -> Any:
    info = yield statx(path, flags=flags)
    return info


@syslet
def _mkdir(path: Any, mode: Any) -> Any:
    yield mkdirat(path, mode)


# Since CPython 3.14 `os.link` follows a symbolic link, unless it is told not to.
_LINK_FLAGS = 0 if sys.version_info < (3, 14) else AT_SYMLINK_FOLLOW


@syslet
def _remove(path: Any, flags: Any) -> Any:
    yield unlinkat(path, flags=flags)


@syslet
def _rename(path: Any, target: Any) -> Any:
    yield renameat(path, target)


@syslet
def _symlink(text: Any, path: Any) -> Any:
    yield symlinkat(text, path)


@syslet
def _hardlink(target: Any, path: Any) -> Any:
    yield linkat(target, path, flags=_LINK_FLAGS)


@set_module("threadlets")
class Path(pathlib.PurePosixPath):
    """A path: a `pathlib.PurePosixPath`, with methods that touch files, to be awaited.

    Methods, results and exceptions are those of `pathlib.Path`. A path equals the pure path with
    the same text, and can be used wherever a path is accepted.
    """

    __slots__ = ()

    async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the status of the file; without `follow_symlinks`, of a link itself."""
        flags = 0 if follow_symlinks else AT_SYMLINK_NOFOLLOW
        info: os.stat_result = await _run(_stat, self, flags)
        return info

    async def lstat(self) -> os.stat_result:
        """Return the status of the file, or of a link itself."""
        return await self.stat(follow_symlinks=False)

    async def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether the path exists; a link that is followed exists only if its target does."""
        return await self._mode(follow_symlinks) != 0

    async def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a folder, or a link to one."""
        return stat_module.S_ISDIR(await self._mode(follow_symlinks))

    async def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a regular file, or a link to one."""
        return stat_module.S_ISREG(await self._mode(follow_symlinks))

    async def is_symlink(self) -> bool:
        """Return whether it is a symbolic link."""
        return stat_module.S_ISLNK(await self._mode(False))

    async def is_fifo(self) -> bool:
        """Return whether it is a named pipe, or a link to one."""
        return stat_module.S_ISFIFO(await self._mode(True))

    async def is_socket(self) -> bool:
        """Return whether it is a socket, or a link to one."""
        return stat_module.S_ISSOCK(await self._mode(True))

    async def is_block_device(self) -> bool:
        """Return whether it is a block device, or a link to one."""
        return stat_module.S_ISBLK(await self._mode(True))

    async def is_char_device(self) -> bool:
        """Return whether it is a character device, or a link to one."""
        return stat_module.S_ISCHR(await self._mode(True))

    async def is_mount(self) -> bool:
        """Return whether a file system is mounted here."""
        return bool(await self._call(pathlib.Path.is_mount))

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *,
        opener: Opener | None = None,
    ) -> Opening[Any]:
        """Open the file, as `threadlets.open` does: await it, or use it with `async with`."""
        return open(self, mode, buffering, encoding, errors, newline, opener=opener)

    async def read_bytes(self) -> bytes:
        """Return the file's content."""
        return await read_file(self)

    async def read_text(
        self, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> str:
        """Return the file's content as text; `newline` decides whether newlines are translated."""
        data = await read_file(self)
        with io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline) as text:
            return text.read()

    async def write_bytes(self, data: bytes | bytearray | memoryview) -> int:
        """Create or replace the file with `data`; return its size in bytes."""
        return await write_file(self, data)

    async def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """Create or replace the file with text; return the number of characters."""
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")
        encoded = io.BytesIO()
        text = io.TextIOWrapper(encoded, encoding, errors, newline)
        text.write(data)
        text.flush()
        await write_file(self, encoded.getvalue())
        return len(data)

    async def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Make the folder; with `parents`, also missing parents, with default permissions."""
        mode = int_of(mode)
        try:
            await _run(_mkdir, self, mode)
        except FileNotFoundError:
            if not parents or self.parent == self:
                raise
            await self.parent.mkdir(parents=True, exist_ok=True)
            await self.mkdir(mode, parents=False, exist_ok=exist_ok)
        except OSError:
            if not exist_ok or not await self.is_dir():
                raise

    async def rmdir(self) -> None:
        """Remove the folder, which must be empty."""
        await _run(_remove, self, AT_REMOVEDIR)

    async def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file or link."""
        try:
            await _run(_remove, self, 0)
        except FileNotFoundError:
            if not missing_ok:
                raise

    async def rename(self, target: Text) -> Self:
        """Rename the file or folder, replacing an existing file; return the new path."""
        # First, so that a target that is no path is refused before anything is done.
        renamed = type(self)(target)
        await _run_with_two(_rename, self, target)
        return renamed

    async def replace(self, target: Text) -> Self:
        """Rename the file or folder, replacing an existing file; return the new path."""
        return await self.rename(target)

    async def symlink_to(self, target: PathLike, target_is_directory: bool = False) -> None:
        """Make this a symbolic link to `target`."""
        await _run_with_two(_symlink, target, self)

    async def hardlink_to(self, target: PathLike) -> None:
        """Make this a hard link to `target`; before CPython 3.14, a symbolic link is not followed."""
        await _run_with_two(_hardlink, target, self)

    async def copy(self, target: Text, *, follow_symlinks: bool = True) -> Self:
        """Copy the file, as `threadlets.copy_file` does; return the path of the copy."""
        copied = type(self)(target)
        await copy_file(self, target, follow_symlinks=follow_symlinks)
        return copied

    async def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Create the file if it is missing, and set its times to now."""
        await self._call(pathlib.Path.touch, mode, exist_ok)

    async def chmod(self, mode: int, *, follow_symlinks: bool = True) -> None:
        """Change the permissions."""
        await _core.call(os.chmod, self, mode, follow_symlinks=follow_symlinks)

    async def lchmod(self, mode: int) -> None:
        """Change the permissions; of a link, its own."""
        await self.chmod(mode, follow_symlinks=False)

    async def readlink(self) -> Self:
        """Return the target of the symbolic link."""
        return type(self)(await _core.call(os.readlink, self))

    async def resolve(self, strict: bool = False) -> Self:
        """Return the absolute path with links resolved; `strict`: it must exist."""
        return type(self)(await self._call(pathlib.Path.resolve, strict))

    async def absolute(self) -> Self:
        """Return the absolute path; links are not resolved."""
        return type(self)(await self._call(pathlib.Path.absolute))

    async def expanduser(self) -> Self:
        """Return the path with `~` or `~user` replaced by the home folder."""
        return type(self)(await self._call(pathlib.Path.expanduser))

    async def samefile(self, other_path: Text) -> bool:
        """Return whether both paths name the same file."""
        status = await self.stat()
        return os.path.samestat(status, await type(self)(other_path).stat())

    async def owner(self) -> str:
        """Return the login name of the owner."""
        return str(await self._call(pathlib.Path.owner))

    async def group(self) -> str:
        """Return the name of the group."""
        return str(await self._call(pathlib.Path.group))

    async def iterdir(self) -> AsyncIterator[Self]:
        """Iterate over the entries of the folder, in arbitrary order."""
        for name in await _core.call(os.listdir, self):
            yield self / name
            await _core.checkpoint

    def glob(self, pattern: str, **options: Any) -> AsyncIterator[Self]:
        """Iterate over the paths below that match `pattern`, by the rules of `pathlib`."""
        return self._matches(pathlib.Path(self).glob(pattern, **options))

    def rglob(self, pattern: str, **options: Any) -> AsyncIterator[Self]:
        """Iterate over the paths at any depth below that match `pattern`."""
        return self._matches(pathlib.Path(self).rglob(pattern, **options))

    async def walk(
        self,
        top_down: bool = True,
        on_error: OnError | None = None,
        follow_symlinks: bool = False,
        *,
        depth: int = DEPTH,
    ) -> AsyncIterator[tuple[Self, list[str], list[str]]]:
        """Walk the folder and all below it, as `pathlib.Path.walk` and `threadlets.walk` do.

        Links to folders are among the files, unless they are followed.
        """
        walker = Walker(
            os.fspath(self),
            on_error=on_error,
            follow_symlinks=follow_symlinks,
            depth=depth,
            links_are_folders=False,
        )
        try:
            async for path, dirnames, filenames in walker.walk(top_down):
                yield type(self)(path), dirnames, filenames
        finally:
            await walker.close()

    @classmethod
    async def cwd(cls) -> Self:
        """Return the working directory."""
        return cls(await _core.call(os.getcwd))

    @classmethod
    async def home(cls) -> Self:
        """Return the home folder."""
        return cls(await _core.call(pathlib.Path.home))

    async def _mode(self, follow_symlinks: bool) -> int:
        """Return the mode, or 0 if the path does not exist."""
        try:
            return (await self.stat(follow_symlinks=follow_symlinks)).st_mode
        except OSError as error:
            if sys.version_info < (3, 14) and not is_missing(error):
                raise
        except ValueError:
            # The kernel takes no such name, so no file has it.
            pass
        return 0

    async def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        return await _core.call(method, pathlib.Path(self), *args)

    async def _matches(self, found: Iterator[pathlib.Path]) -> AsyncIterator[Self]:
        def some() -> list[pathlib.Path]:
            return [path for path, _ in zip(found, range(_MATCHES_AT_ONCE), strict=False)]

        while paths := await _core.call(some):
            for path in paths:
                yield type(self)(path)
                await _core.checkpoint


async def _run(program: Syslet[...], path: PathLike, *args: Any) -> Any:
    result = await program(path, *args)
    if result.errno:
        raise failure(result, path)
    return result.value


async def _run_with_two(program: Syslet[...], path: PathLike, second: PathLike) -> None:
    result = await program(path, second)
    if result.errno:
        raise failure(result, path, second)
