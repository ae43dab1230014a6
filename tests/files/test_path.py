"""`Path` does what `pathlib.Path` does; `walk` what `os.walk` does, in the same order."""

from __future__ import annotations

import asyncio
import inspect
import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets._files import walking

from .conftest import Run


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make folders in folders, with files, and links to files and folders."""
    top = tmp_path / "tree"
    for number in range(5):
        for name in ("a", "b/c", "b/d"):
            folder = top / f"n{number}" / name
            folder.mkdir(parents=True)
            (folder / "file.txt").write_text("x")
            (folder / f"{number}.py").write_text("")
    (top / "link_to_folder").symlink_to("n1")
    (top / "link_to_file").symlink_to("n1/a/file.txt")
    (top / "broken").symlink_to("nowhere")
    (top / "n2" / "empty").mkdir()
    os.mkfifo(top / "n2" / "fifo")
    return top


async def _all(found: Any) -> list[Any]:
    return [(str(path), list(dirs), list(files)) async for path, dirs, files in found]


@pytest.mark.parametrize("topdown", [True, False])
@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("depth", [0, 1, 2, 16])
def test_walk_is_os_walk(
    run: Run,
    tree: Path,
    topdown: bool,
    follow: bool,
    depth: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Folders and files are the same, in the same order, whether read ahead or (depth 0) not."""
    monkeypatch.setattr(walking, "_SLOW_NS", -(10**12) if depth else 10**12)
    depth = depth or 1
    expected = list(os.walk(str(tree), topdown=topdown, followlinks=follow))
    walk = threadlets.walk(str(tree), topdown=topdown, follow_symlinks=follow, depth=depth)
    assert expected == run(_all(walk))
    bytes_walk = os.walk(os.fsencode(tree), topdown=topdown, followlinks=follow)

    async def of_bytes() -> list[Any]:
        walk = threadlets.walk(os.fsencode(tree), topdown=topdown, follow_symlinks=follow)
        return [found async for found in walk]

    assert list(bytes_walk) == run(of_bytes())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="pathlib.Path.walk is new in 3.12")
@pytest.mark.parametrize("top_down", [True, False])
@pytest.mark.parametrize("follow", [True, False])
def test_path_walk_is_that_of_pathlib(run: Run, tree: Path, top_down: bool, follow: bool) -> None:
    """Links to folders are listed as files, unless they are followed."""
    expected = tree.walk(top_down, follow_symlinks=follow)  # type: ignore[attr-defined]
    found = run(_all(threadlets.Path(tree).walk(top_down, follow_symlinks=follow)))
    assert [(str(path), *names) for path, *names in expected] == found


def test_walk_leaves_out_what_is_removed(run: Run, tree: Path) -> None:
    """Changing the list of folders decides where the walk goes, and in which order."""

    async def main() -> list[str]:
        seen = []
        async for path, dirnames, _ in threadlets.walk(tree):
            seen.append(path)
            dirnames[:] = sorted((name for name in dirnames if name != "b"), reverse=True)
        return seen

    def model() -> list[str]:
        seen = []
        for path, dirnames, _ in os.walk(tree):
            seen.append(path)
            dirnames[:] = sorted((name for name in dirnames if name != "b"), reverse=True)
        return seen

    assert model() == run(main())


def test_walk_goes_past_what_cannot_be_read(run: Run, tree: Path) -> None:
    """Errors go to `on_error`, with the folder's name; without it they are ignored."""

    async def main() -> None:
        errors: list[OSError] = []
        found = [it async for it in threadlets.walk(tree / "missing", on_error=errors.append)]
        assert [] == found
        assert [(FileNotFoundError, str(tree / "missing"))] == [
            (type(error), error.filename) for error in errors
        ]
        async for path, dirnames, _ in threadlets.walk(tree, on_error=errors.append, depth=1):
            if path == str(tree):
                shutil.rmtree(tree / "n3")
                dirnames.append("n9")
        assert {str(tree / "n3"), str(tree / "n9")} == {it.filename for it in errors[1:]}
        assert [] == [it async for it in threadlets.walk(tree / "link_to_file")]
        with pytest.raises(ValueError, match="depth"):
            await anext(threadlets.walk(tree, depth=0))

    run(main())


@pytest.mark.parametrize("slow_ns", [-(10**12), 10**12])
def test_a_walk_that_is_left_or_cancelled_leaves_nothing(
    run: Run, tree: Path, monkeypatch: pytest.MonkeyPatch, slow_ns: int
) -> None:
    """Reading ahead is stopped; the fixture counts descriptors."""
    monkeypatch.setattr(walking, "_SLOW_NS", slow_ns)

    async def main() -> None:
        walk = threadlets.walk(tree)
        await anext(walk)
        await walk.aclose()  # type: ignore[attr-defined]
        for n_ticks in range(5):
            task = asyncio.create_task(_all(threadlets.walk("/proc/self")))
            for _ in range(n_ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    run(main())


def test_a_path_is_a_pure_path() -> None:
    """It equals the path of pathlib with the same text, and gives paths of its own kind."""
    path = threadlets.Path("/a", "b.txt")
    assert pathlib.PurePosixPath("/a/b.txt") == path
    assert hash(pathlib.PurePosixPath("/a/b.txt")) == hash(path)
    for derived in (path.parent, path / "x", path.with_suffix(".py"), path.relative_to("/a")):
        assert type(derived) is threadlets.Path
    assert type(path.parents[0]) is threadlets.Path
    assert "/a/b.txt" == os.fspath(path)
    assert "Path('/a/b.txt')" == repr(path)


def _alike(run: Run, call: Callable[[Any], Any], make: Callable[[], Path]) -> None:
    """Make the same call on both kinds of path, each in a fresh folder."""
    outcomes = []
    for kind in (pathlib.Path, threadlets.Path):
        folder = make()

        async def outcome(path: Any, folder: Path) -> Any:
            try:
                value = call(path)
                if hasattr(value, "__aiter__"):
                    value = sorted([it async for it in value])
                elif inspect.isawaitable(value):
                    value = await value
                elif not isinstance(value, str | int | bytes | pathlib.Path | os.stat_result):
                    value = value if value is None else sorted(value)
            except (OSError, ValueError) as error:
                names = [getattr(error, name, None) for name in ("filename", "filename2")]
                value = (type(error), getattr(error, "errno", None), *map(str, names))
            return repr(value).replace(str(folder), "").replace("PosixPath", "Path")

        outcome_now = run(outcome(kind(folder), folder))
        listing = sorted((str(p.relative_to(folder)), p.lstat().st_mode) for p in folder.rglob("*"))
        outcomes.append((outcome_now, listing))
    assert outcomes[0] == outcomes[1]


_CALLS: list[Callable[[Any], Any]] = [
    lambda p: (p / "file").exists(),
    lambda p: (p / "broken").exists(),
    lambda p: (p / "file" / "x").exists(),
    lambda p: (p / "a\0b").exists(),
    lambda p: (p / ("x" * 300)).exists(),
    lambda p: (p / "loop").exists(),
    lambda p: (p / "loop").is_symlink(),
    lambda p: (p / "dir").is_dir(),
    lambda p: (p / "dirlink").is_dir(),
    lambda p: (p / "file").is_dir(),
    lambda p: (p / "file").is_file(),
    lambda p: (p / "dir").is_file(),
    lambda p: (p / "fifo").is_fifo(),
    lambda p: (p / "fifo").is_socket(),
    lambda p: (p / "fifo").is_char_device(),
    lambda p: (p / "fifo").is_block_device(),
    lambda p: (p / "dir").is_mount(),
    lambda p: (p / "missing").stat(),
    lambda p: (p / "broken").stat(),
    lambda p: (p / "file").read_bytes(),
    lambda p: (p / "file").read_text(),
    lambda p: (p / "file").read_text("ascii", "replace"),
    lambda p: (p / "dir").read_text(),
    lambda p: (p / "missing").read_bytes(),
    lambda p: (p / "new").write_bytes(b"abc"),
    lambda p: (p / "new").write_text("äbc\n", "utf-16", newline="\r\n"),
    lambda p: (p / "file").write_text("x"),
    lambda p: (p / "dir").write_text("x"),
    lambda p: (p / "new").mkdir(),
    lambda p: (p / "new").mkdir(0o700),
    lambda p: (p / "dir").mkdir(),
    lambda p: (p / "dir").mkdir(exist_ok=True),
    lambda p: (p / "file").mkdir(exist_ok=True),
    lambda p: (p / "x" / "y" / "z").mkdir(),
    lambda p: (p / "x" / "y" / "z").mkdir(0o700, parents=True),
    lambda p: (p / "file" / "y").mkdir(parents=True),
    lambda p: (p / "dir").rmdir(),
    lambda p: (p / "empty").rmdir(),
    lambda p: (p / "file").rmdir(),
    lambda p: (p / "file").unlink(),
    lambda p: (p / "dir").unlink(),
    lambda p: (p / "missing").unlink(),
    lambda p: (p / "missing").unlink(missing_ok=True),
    lambda p: (p / "file").rename(p / "renamed"),
    lambda p: (p / "file").rename(p / "dir"),
    lambda p: (p / "missing").rename(p / "x"),
    lambda p: (p / "file").replace(p / "dir" / "inner"),
    lambda p: (p / "new").symlink_to("file"),
    lambda p: (p / "file").symlink_to("file"),
    lambda p: (p / "new").hardlink_to(p / "file"),
    lambda p: (p / "new").hardlink_to(p / "missing"),
    lambda p: (p / "dirlink").readlink(),
    lambda p: (p / "file").readlink(),
    lambda p: (p / "dirlink" / ".." / "file").resolve(),
    lambda p: (p / "missing").resolve(strict=True),
    lambda p: (p / "file").samefile(p / "dir" / ".." / "file"),
    lambda p: (p / "file").samefile(p / "dir"),
    lambda p: (p / "file").samefile(p / "missing"),
    lambda p: (p / "file").chmod(0o600),
    lambda p: (p / "missing").chmod(0o600),
    lambda p: (p / "new").touch(0o600),
    lambda p: (p / "file").touch(exist_ok=False),
    lambda p: p.iterdir(),
    lambda p: p.glob("*"),
    lambda p: p.glob("**/*"),
    lambda p: p.rglob("inner"),
    lambda p: p.glob("[!f]*"),
    lambda p: p.owner(),
    lambda p: p.group(),
    lambda p: p.absolute(),
]


@pytest.mark.parametrize("call", _CALLS, ids=lambda it: inspect.getsource(it).strip(" ,\n"))
def test_methods_are_those_of_pathlib(run: Run, tmp_path: Path, call: Callable[[Any], Any]) -> None:
    """Results, exceptions with their paths, and the files afterwards are the same."""

    def make() -> Path:
        folder = tmp_path / f"folder{len(os.listdir(tmp_path))}"
        (folder / "dir").mkdir(parents=True)
        (folder / "empty").mkdir()
        (folder / "file").write_text("content é\r\n", newline="")
        (folder / "dir" / "inner").write_text("")
        (folder / "dirlink").symlink_to("dir")
        (folder / "broken").symlink_to("nowhere")
        (folder / "loop").symlink_to("loop")
        os.mkfifo(folder / "fifo")
        return folder

    _alike(run, call, make)


def test_stat_is_that_of_os(run: Run, tmp_path: Path) -> None:
    """Every field is equal, for a file and for a link."""
    (tmp_path / "link").symlink_to(tmp_path)

    async def main() -> tuple[os.stat_result, os.stat_result]:
        path = threadlets.Path(tmp_path / "link")
        return await path.stat(), await path.lstat()

    stats = run(main())
    for expected, found in zip(
        (os.stat(tmp_path), os.lstat(tmp_path / "link")), stats, strict=True
    ):
        for name in dir(expected):
            if name.startswith("st_"):
                # Seconds are floats, whose last digit depends on how they were computed.
                value = pytest.approx(getattr(expected, name), rel=0, abs=1e-6)
                assert value == getattr(found, name), name


def test_iterdir_of_what_is_no_folder(run: Run, tmp_path: Path) -> None:
    """The exception comes with the first item."""
    (tmp_path / "file").touch()

    async def main() -> None:
        for name, expected in (("file", NotADirectoryError), ("missing", FileNotFoundError)):
            with pytest.raises(expected) as raised:
                await anext(threadlets.Path(tmp_path / name).iterdir())
            assert str(tmp_path / name) == raised.value.filename

    run(main())


def test_large_folders(run: Run, tmp_path: Path) -> None:
    """One call of the kernel does not give all names, which have every length."""
    names = {"x" * (n % 250) + str(n) for n in range(5000)}
    for name in names:
        (tmp_path / name).touch()

    async def main() -> None:
        assert names == {path.name async for path in threadlets.Path(tmp_path).iterdir()}
        [(_, _, files)] = [found async for found in threadlets.walk(tmp_path)]
        assert names == set(files)

    run(main())


def test_open_copy_cwd_and_home(run: Run, tmp_path: Path) -> None:
    """A file that is opened by its path, its copy, and the two folders work as with pathlib."""

    async def main() -> None:
        path = threadlets.Path(tmp_path) / "file"
        async with path.open("w") as file:
            await file.write("text")
        copied = await path.copy(tmp_path / "copy")
        assert type(copied) is threadlets.Path
        assert "text" == await copied.read_text()
        assert pathlib.Path.cwd() == pathlib.Path(await threadlets.Path.cwd())
        assert pathlib.Path.home() == pathlib.Path(await threadlets.Path.home())
        assert await threadlets.Path("~").expanduser() == await threadlets.Path.home()

    run(main())
