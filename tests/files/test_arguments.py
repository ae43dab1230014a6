"""Odd arguments: what the builtin takes has the same result here, and what it refuses is refused."""

from __future__ import annotations

import array
import contextlib
import ctypes
import inspect
import io
import itertools
import operator
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets.testing import use_engine

from .conftest import Run

_CONTENT = b"line 1\nline 2\nline 3"


@pytest.fixture(autouse=True)
def engine() -> Iterator[str]:
    """Use one engine only: arguments are checked before it is used."""
    with use_engine("workers"):
        yield "workers"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder in memory where there is one: disks are slow at cutting files."""
    if not os.path.isdir("/dev/shm"):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


class _Index:
    """An object with `__index__` that is no int."""

    def __index__(self) -> int:
        return 2


class _Fails:
    def __index__(self) -> int:
        raise KeyError("no number")


class _Fspath:
    """An object with `__fspath__` that is no path."""

    def __init__(self, path: Any) -> None:
        self._path = path

    def __fspath__(self) -> Any:
        return self._path


class _Structure(ctypes.BigEndianStructure):
    _fields_ = [("a", ctypes.c_uint16), ("b", ctypes.c_uint32)]


class _Str(str):
    pass


_released = memoryview(bytearray(4))
_released.release()

_NUMBERS: dict[str, Any] = {
    repr(it): it
    for it in (True, False, 0, 2, -1, -2, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**70, 1.0)
}
_NUMBERS |= {repr(it): it for it in (1.5, float("nan"), "a", b"a", None, [])}
_NUMBERS |= {"index": _Index(), "fails": _Fails(), "object": object()}

_MEMORY: dict[str, Callable[[], Any]] = {
    "text": lambda: "text",
    "bytes": lambda: b"x",
    "empty": lambda: b"",
    "bytearray": lambda: bytearray(b"abc"),
    "in pieces": lambda: memoryview(bytearray(b"abcdef"))[::2],
    "backwards": lambda: memoryview(bytearray(b"abcdef"))[::-1],
    "numbers": lambda: array.array("i", [1, 2]),
    "no numbers": lambda: array.array("d"),
    "shorts": lambda: memoryview(bytearray(6)).cast("H"),
    "matrix": lambda: memoryview(bytearray(4)).cast("B", (2, 2)),
    "structures": lambda: (_Structure * 2)(),
    "constant": lambda: memoryview(b"constant"),
    "released": lambda: _released,
    "None": lambda: None,
    "7": lambda: 7,
    "[]": list,
    "[1]": lambda: [1],
    "index": _Index,
    "object": object,
}
_TEXT: dict[str, Callable[[], Any]] = {
    "text": lambda: "a\n",
    "no text": lambda: "",
    "of a class": lambda: _Str("sub"),
    "half a character": lambda: "\ud800",
    "bytes": lambda: b"x",
    "list": lambda: ["a"],
    "None": lambda: None,
}


def _calls(mode: str, buffering: int) -> Iterator[tuple[str, str, Callable[[], tuple[Any, ...]]]]:
    """Yield name, oddity and arguments of each call; the arguments are made anew for each call."""
    names = ["read", "readline", "readlines", "seek", "truncate"]
    if "b" in mode and buffering:
        names += ["peek", "read1"] if "r" in mode else ["read1"]
    for name, (odd, value) in itertools.product(names, _NUMBERS.items()):
        yield name, odd, lambda value=value: (value,)
    for odd, value in _NUMBERS.items():
        yield "seek", f"0, {odd}", lambda value=value: (0, value)
    for odd, make in (_MEMORY | _TEXT).items():
        yield "write", odd, lambda make=make: (make(),)
        yield "writelines", odd, lambda make=make: (make(),)
        yield "writelines", f"[{odd}]", lambda make=make: ([make()],)
    if "b" in mode:
        for name, (odd, make) in itertools.product(("readinto", "readinto1"), _MEMORY.items()):
            if buffering or name == "readinto":
                yield name, odd, lambda make=make: (make(),)
    if not buffering:
        yield "readall", "", lambda: ()


def _differs_with_reason(mode: str, name: str, odd: str) -> bool:
    """Return whether the builtin itself behaves oddly here."""
    return (
        # The builtin reads nothing, and does not notice that it may not read.
        (name == "readline" and odd in ("0", "False"))
        # The builtin returns the very object that it was given.
        or (name == "truncate" and odd == "index")
        # The builtin takes floats for cookies, and drops the fraction.
        or ("b" not in mode and name == "seek" and odd in ("1.0", "1.5", "nan"))
        # The builtin raises OSError (EBADF); our exception is a subclass of it.
        or name == "readall"
        # That much memory is asked for before it is known whether there are as many bytes.
        or (name in ("read", "read1") and odd == "2147483648")
    )


def _content(path: Path) -> tuple[int, bytes]:
    """Return the size and the first bytes: truncating may make a file that is huge and empty."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size, file.read(1000)


def _shown(args: tuple[Any, ...]) -> list[bytes]:
    """Return the content of the arguments that a call may have filled."""
    return [bytes(it) for it in args if isinstance(it, bytearray | array.array | ctypes.Array)]


@pytest.mark.parametrize("is_closed", [False, True])
@pytest.mark.parametrize(
    ("mode", "buffering"),
    [
        *itertools.product(("rb", "wb", "r+b", "ab"), (-1, 0)),
        *itertools.product(("r", "w", "r+"), (-1,)),
    ],
)
def test_methods_take_and_refuse_what_those_of_the_builtin_do(
    run: Run, tmp_path: Path, mode: str, buffering: int, is_closed: bool
) -> None:
    """Each method raises the same exception, or gives the same value, position and content."""
    path = tmp_path / "file"
    options = {} if "b" in mode else {"encoding": "utf-8"}

    def outcome_of_builtin(name: str, args: tuple[Any, ...]) -> Any:
        with open(path, mode, buffering, **options) as file:
            if is_closed:
                file.close()
            try:
                value = getattr(file, name)(*args)
            except Exception as error:
                return type(error)
            position = None if name == "readlines" and "b" not in mode else file.tell()
        return value, position, _content(path)

    async def outcome(name: str, args: tuple[Any, ...]) -> Any:
        async with threadlets.open(path, mode, buffering, **options) as file:
            if is_closed:
                await file.close()
            try:
                value = await getattr(file, name)(*args)
            except Exception as error:
                return type(error)
            position = None if name == "readlines" and "b" not in mode else await file.tell()
        return value, position, _content(path)

    async def main() -> list[str]:
        wrong = []
        for name, odd, make in _calls(mode, buffering):
            if _differs_with_reason(mode, name, odd):
                continue
            path.write_bytes(_CONTENT)
            args = make()
            expected = outcome_of_builtin(name, args), _shown(args)
            path.write_bytes(_CONTENT)
            args = make()
            found = await outcome(name, args), _shown(args)
            # A closed file of the builtin may name the unsupported operation instead.
            if is_closed and expected[0] is io.UnsupportedOperation and found[0] is ValueError:
                continue
            if expected != found:
                wrong.append(f"{name}({odd}): {expected}, here {found}")
        return wrong

    assert [] == run(main())


_PATHS: dict[str, Any] = {
    **{repr(it)[:12]: it for it in ("f", b"f", "missing/x", "f/x", "folder", "loop", "", "a\0b")},
    **{repr(it)[:12]: it for it in ("\ud800", "n" * 300, "x/" * 3000, None, 1.5, [], 2**31)},
    **{f"fspath {it!r}": _Fspath(it) for it in ("f", b"f", 3, None, "a\0b")},
    "pure": pathlib.PurePath("f"),
    "object": object(),
    "fspath of fspath": _Fspath(_Fspath("f")),
}
_OPTIONS: list[dict[str, Any]] = [
    *({"mode": "rb", "buffering": it} for it in _NUMBERS.values()),
    *({"mode": "r", "buffering": it} for it in _NUMBERS.values()),
    *({"mode": it} for it in _NUMBERS.values()),
    *(
        {"mode": mode, name: it}
        for mode in ("r", "wb")
        for name in ("encoding", "errors", "newline")
        for it in (b"utf-8", 7, "no", "hex", "a\0", "", "locale")
    ),
    *({"closefd": it} for it in (0, 1, False, None, "a", "", [], 2**70, 1.5)),
    *({"opener": it} for it in (7, "x", lambda _path: 3)),
    *(
        {"opener": lambda _path, _flags, it=it: it}
        for it in (None, "a", 1.5, -1, -2, 2**70, 10_000, _Index())
    ),
]


def _refusal_of(call: Callable[[], Any]) -> Any:
    try:
        value = call()
    except Exception as error:
        return type(error), getattr(error, "errno", None), getattr(error, "filename", None)
    return value


async def _own_refusal_of(call: Callable[[], Any]) -> Any:
    try:
        value = call()
        return await value if inspect.isawaitable(value) else value
    except Exception as error:
        return type(error), getattr(error, "errno", None), getattr(error, "filename", None)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Make a file, a folder and a loop of links, and make their folder the working directory."""
    before = os.getcwd()
    os.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "f").write_bytes(b"x")
    yield tmp_path
    os.chdir(before)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::EncodingWarning")
def test_open_takes_and_refuses_what_the_builtin_does(run: Run, folder: Path) -> None:
    """This holds for files, modes, buffers, encodings and openers."""
    cases: list[dict[str, Any]] = [{"file": it} for it in _PATHS.values()]
    cases += [{"file": it, "mode": "wb"} for it in _PATHS.values()]
    cases += [{"file": "f", **it} for it in _OPTIONS]

    def told(file: Any) -> Any:
        name = None if isinstance(file.name, _Fspath) else file.name
        is_text = "b" not in file.mode
        return name, file.mode, is_text and (file.encoding, file.errors, file.line_buffering)

    def builtin(case: dict[str, Any]) -> Any:
        with open(**case) as file:
            return told(file)

    async def ours(case: dict[str, Any]) -> Any:
        async with threadlets.open(**case) as file:
            return told(file)

    async def main() -> list[str]:
        wrong = []
        for case in cases:
            expected = _refusal_of(lambda: builtin(case))  # noqa: B023
            found = await _own_refusal_of(lambda: ours(case))  # noqa: B023
            if case["file"] == 2**31 and not isinstance(case["file"], bool):
                # The builtin raises TypeError here: what does not fit an int is no descriptor to it.
                assert (TypeError, OverflowError) == (expected[0], found[0])
            elif expected != found:
                wrong.append(f"open({case}): {expected}, here {found}")
        return wrong

    assert [] == run(main())


@pytest.mark.parametrize(
    "name",
    [
        *("mkdir", "touch", "chmod", "rename", "replace", "symlink_to", "hardlink_to", "samefile"),
        *("write_bytes", "write_text", "glob", "rglob"),
    ],
)
def test_paths_take_and_refuse_what_those_of_pathlib_do(run: Run, folder: Path, name: str) -> None:
    """One odd mode, target, content or pattern is taken, or refused before anything is done."""
    if name in ("mkdir", "touch", "chmod"):
        values = list(_NUMBERS.values())
    elif name in ("write_bytes", "write_text"):
        values = [make() for make in (_MEMORY | _TEXT).values()]
    elif name in ("glob", "rglob"):
        values = [None, 7, "", "**", "a/**b", "/x", b"*", "*", "[", ".."]
    else:
        values = list(_PATHS.values())

    def reset() -> Any:
        for it in ("new", "n" * 300):
            with contextlib.suppress(OSError):
                os.unlink(it)
            with contextlib.suppress(OSError):
                os.rmdir(it)
        Path("f").write_bytes(b"x")
        Path("f").chmod(0o644)

    def tree() -> Any:
        return {it: (os.lstat(it).st_mode, os.path.isfile(it) and Path(it).read_bytes())
                for it in os.listdir(".")}  # fmt: skip

    async def drained(value: Any) -> Any:
        if inspect.isasyncgen(value):
            return sorted([str(it) async for it in value])
        value = await value
        return str(value) if isinstance(value, pathlib.PurePath) else value

    def listed(value: Any) -> Any:
        if inspect.isgenerator(value) or isinstance(value, map):
            return sorted(map(str, value))
        return str(value) if isinstance(value, pathlib.PurePath) else value

    # pathlib renames to bytes first, and fails to make a path of them then.
    late = name in ("rename", "replace")
    subject = {"mkdir": "new", "symlink_to": "new", "hardlink_to": "new", "glob": ".", "rglob": "."}
    path = subject.get(name, "f")

    async def main() -> list[str]:
        wrong = []
        for value in values:
            reset()
            expected = _refusal_of(lambda: listed(getattr(Path(path), name)(value))), tree()  # noqa: B023
            reset()
            before = tree()
            found: Any = (
                await _own_refusal_of(
                    lambda: drained(getattr(threadlets.Path(path), name)(value))  # noqa: B023
                ),
                tree(),
            )
            is_refused = isinstance(expected[0], tuple) and isinstance(found[0], tuple)
            if is_refused and found[1] == before and (late or name.startswith("write")):
                # Ours has done nothing, but pathlib may have cut or renamed the file.
                same = expected[0][0] is found[0][0] or (late and found[0][0] is TypeError)
            else:
                same = expected == found
            if not same:
                wrong.append(f"{name}({value!r:.40}): {expected}, here {found}")
        return wrong

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert [] == run(main())


def test_whole_files_refuse_what_is_no_path(run: Run, folder: Path) -> None:
    """They refuse what the builtin `open` and `os.walk` refuse, with the same exception."""

    def read(path: Any) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def write(path: Any) -> int:
        with open(path, "wb") as file:
            return file.write(b"y")

    async def walk(path: Any) -> list[Any]:
        return [it async for it in threadlets.walk(path)]

    async def main() -> list[str]:
        wrong = []
        for path in _PATHS.values():
            if path == 2**31:
                continue
            for builtin, ours in (
                (read, threadlets.read_file),
                (write, threadlets.write_file),
                (write, lambda it: threadlets.write_file(it, b"y", atomic=True)),
                (lambda it: list(os.walk(it)), walk),
            ):
                Path("f").write_bytes(b"x")
                expected = _refusal_of(lambda: builtin(path))  # type: ignore[operator]  # noqa: B023
                if ours is threadlets.write_file:
                    found = await _own_refusal_of(lambda: threadlets.write_file(path, b"y"))  # noqa: B023
                else:
                    found = await _own_refusal_of(lambda: ours(path))  # type: ignore[operator]  # noqa: B023
                if expected != found:
                    wrong.append(f"{path!r:.20}: {expected}, here {found}")
        return wrong

    assert [] == run(main())


@pytest.mark.parametrize("odd", _NUMBERS)
def test_limits_modes_and_depths_are_numbers(run: Run, folder: Path, odd: str) -> None:
    """They are integers for `operator.index`, and fit their C type."""
    value = _NUMBERS[odd]

    def expected_of(least: int, most: int) -> Any:
        try:
            number = operator.index(value)
        except Exception as error:
            return type(error)
        return (
            OverflowError
            if not -most - 1 <= number <= most
            else ValueError
            if number < least
            else None
        )

    async def walk() -> None:
        async for _ in threadlets.walk(".", depth=value):
            pass

    async def main() -> None:
        for call, expected in (
            (walk(), expected_of(1, 2**63 - 1)),
            (threadlets.write_file("new", b"x", mode=value), expected_of(-(2**31), 2**31 - 1)),
            (threadlets.write_file("new", b"x", mode=value, atomic=True),
             expected_of(-(2**31), 2**31 - 1)),
        ):  # fmt: skip
            raised = None
            try:
                await call
            except Exception as error:
                raised = type(error)
            assert expected is raised
        if value is not None:
            expected = expected_of(0, 2**63 - 1)
            if expected is None and not value:
                expected = OSError
            raised = None
            try:
                assert b"x" == await threadlets.read_file("f", limit=value)
            except Exception as error:
                raised = type(error)
            assert expected is raised

    run(main())


def test_structures_are_bytes_like_others(run: Run, folder: Path) -> None:
    """Contiguous memory of any item type is taken, by every way to write and to read into it."""

    async def main() -> None:
        structures = (_Structure * 2)((1, 2), (3, 4))
        async with threadlets.open("f", "w+b", 0) as file:
            assert len(bytes(structures)) == await file.write(structures)
            await file.seek(0)
            copy = (_Structure * 2)()
            assert len(bytes(structures)) == await file.readinto(copy)
            assert bytes(structures) == bytes(copy)
        await threadlets.write_file("f", structures)  # type: ignore[arg-type]
        assert bytes(structures) == await threadlets.read_file("f")
        await threadlets.Path("f").write_bytes(structures)  # type: ignore[arg-type]
        assert bytes(structures) == await threadlets.Path("f").read_bytes()

    run(main())


def test_readall_gives_the_rest(run: Run, folder: Path) -> None:
    """`readall` gives the rest of binary files, buffered or not, and is unsupported for text."""
    data = os.urandom(200_000)
    Path("f").write_bytes(data)

    async def main() -> None:
        for buffering in (0, -1):
            async with threadlets.open("f", "rb", buffering) as file:
                assert data[:10] == await file.read(10)
                assert data[10:] == await file.readall()
                assert b"" == await file.readall()
            with pytest.raises(ValueError, match="closed"):
                await file.readall()
        async with threadlets.open("f") as text:
            with pytest.raises(io.UnsupportedOperation):
                await text.readall()

    run(main())
