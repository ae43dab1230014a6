"""A file behaves like one of the builtin `open`: the same calls on the same content, one by one."""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import threadlets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Run

_BINARY_MODES = ("rb", "wb", "ab", "r+b", "w+b", "a+b")
_TEXT_MODES = ("r", "w", "a", "r+", "w+", "a+")
_NEWLINES = (None, "", "\n", "\r", "\r\n")
_ENCODINGS = ("utf-8", "latin-1", "utf-16", "utf-8-sig", "utf-16-le", "cp1252", "shift_jis")
_TEXT = "first\nsecond\r\nthird\rfourth\n\r\n\n\r\rlast\r"

Call = tuple[str, tuple[Any, ...]]


def _outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (OSError, ValueError, TypeError) as error:
        return type(error), getattr(error, "errno", None)


async def _own_outcome_of(call: Callable[[], Any]) -> Any:
    try:
        value = call()
        return await value if inspect.isawaitable(value) else value
    except (OSError, ValueError, TypeError) as error:
        return type(error), getattr(error, "errno", None)


def _builtin(path: Path, calls: list[Call], **options: Any) -> list[Any]:
    with open(path, **options) as file:
        outcomes = [file.name, file.mode]
        for name, args in calls:
            own_args = tuple(bytearray(arg) if name == "readinto" else arg for arg in args)
            outcome = _outcome_of(lambda: getattr(file, name)(*own_args))  # noqa: B023
            if name == "seek" and isinstance(outcome, int) and "b" in file.mode:
                # A seek after a failed one moves the builtin correctly, but returns another number.
                outcome = file.tell()
            outcomes += [outcome, own_args]
    return [*outcomes, path.read_bytes()]


async def _ours(path: Path, calls: list[Call], **options: Any) -> list[Any]:
    async with threadlets.open(path, **options) as file:
        outcomes = [file.name, file.mode]
        for name, args in calls:
            own_args = tuple(bytearray(arg) if name == "readinto" else arg for arg in args)
            outcomes.append(
                await _own_outcome_of(lambda: getattr(file, name)(*own_args))  # noqa: B023
            )
            outcomes.append(own_args)
    return [*outcomes, path.read_bytes()]


def _assert_alike(
    run: Run, folder: Path, content: bytes, calls: list[Call], **options: Any
) -> None:
    path = folder / "file"
    path.write_bytes(content)
    expected = _builtin(path, calls, **options)
    path.write_bytes(content)
    assert expected == run(_ours(path, calls, **options))


def _with_flushes(calls: list[Call]) -> list[Call]:
    """Return the calls with a flush after each write, so that nothing stays in the buffer."""
    return [it for call in calls for it in (call, *([("flush", ())] * ("write" in call[0])))]


_sizes = st.one_of(st.integers(-1, 40), st.sampled_from([100, 8192, 70_000]))
_binary_calls = st.one_of(
    st.tuples(st.just("read"), st.tuples(_sizes)),
    st.tuples(st.just("readline"), st.tuples(_sizes.filter(bool))),
    st.tuples(st.just("readlines"), st.tuples(st.integers(-1, 30))),
    st.tuples(st.just("readinto"), st.tuples(st.sampled_from([0, 1, 30, 9000]))),
    st.tuples(st.just("write"), st.tuples(st.binary(max_size=50))),
    st.tuples(st.just("write"), st.tuples(st.integers(1, 5000).map(lambda n: b"x\n" * n))),
    st.tuples(st.just("writelines"), st.tuples(st.lists(st.binary(max_size=9), max_size=3))),
    st.tuples(st.just("seek"), st.tuples(st.integers(-5, 20_000))),
    st.tuples(st.just("seek"), st.tuples(st.integers(-50, 50), st.sampled_from([0, 1, 2]))),
    st.tuples(st.just("truncate"), st.one_of(st.just(()), st.tuples(st.integers(0, 9000)))),
    st.tuples(st.just("tell"), st.just(())),
    st.tuples(st.just("flush"), st.just(())),
)
_text_calls = st.one_of(
    st.tuples(st.just("read"), st.tuples(_sizes)),
    st.tuples(st.just("readline"), st.tuples(_sizes.filter(bool))),
    st.tuples(st.just("readlines"), st.tuples(st.integers(-1, 30))),
    st.tuples(st.just("write"), st.tuples(st.text("aé\n\r", max_size=20))),
    st.tuples(st.just("writelines"), st.tuples(st.lists(st.text("aé\n\r"), max_size=3))),
    st.tuples(st.just("seek"), st.just((0,))),
    st.tuples(st.just("seek"), st.just((0, 2))),
    st.tuples(st.just("flush"), st.just(())),
)
_quiet = settings(suppress_health_check=list(HealthCheck), deadline=None)


@_quiet
@given(
    st.sampled_from(_BINARY_MODES),
    st.sampled_from([-1, 0, 2, 100]),
    st.one_of(st.binary(max_size=100), st.integers(0, 9000).map(lambda n: b"some line\n" * n)),
    st.lists(_binary_calls, max_size=12),
)
def test_binary_calls_give_what_the_builtin_gives(
    run: Run, mode: str, buffering: int, content: bytes, calls: list[Call]
) -> None:
    """Random calls, in any order, with and without a buffer: results, errors and content agree.

    `readline(0)` is left out: the builtin does not notice that it may not read. Reading or telling
    directly after appending is left out, too: the builtin's position depends on its buffer then.
    """
    if "a" in mode:
        calls = _with_flushes(calls)
    with tempfile.TemporaryDirectory() as folder:
        _assert_alike(run, Path(folder), content, calls, mode=mode, buffering=buffering)


@_quiet
@given(
    st.sampled_from(_TEXT_MODES),
    st.sampled_from(_NEWLINES),
    st.sampled_from(("utf-8", "utf-16", "utf-8-sig", "latin-1")),
    st.one_of(st.text("aé\n\r", max_size=200), st.integers(0, 2000).map(lambda n: "línea\r\n" * n)),
    st.lists(_text_calls, max_size=12),
)
def test_text_calls_give_what_the_builtin_gives(
    run: Run, mode: str, newline: str | None, encoding: str, content: str, calls: list[Call]
) -> None:
    """Random calls, in any order, on text: results, errors and content agree.

    Reading directly after a write is left out: the builtin may give what was there before. So is
    `readline(0)`, with which the builtin reads ahead.
    """
    calls = _with_flushes(calls)
    if "+" in mode and sys.version_info >= (3, 15):
        # After a limited readlines, the builtin continues with what it had read ahead, stale or not.
        calls = [(name, () if name == "readlines" else args) for name, args in calls]
    options = {"mode": mode, "newline": newline, "encoding": encoding}
    with tempfile.TemporaryDirectory() as folder:
        _assert_alike(run, Path(folder), content.encode(encoding), calls, **options)


@pytest.mark.parametrize("encoding", _ENCODINGS)
@pytest.mark.parametrize("newline", _NEWLINES)
@pytest.mark.parametrize("mode", _TEXT_MODES)
def test_newlines_and_encodings(
    run: Run, tmp_path: Path, mode: str, newline: str | None, encoding: str
) -> None:
    """This holds for reading lines, and for writing after that, with every newline and encoding."""
    calls = [("readline", ()), ("read", (3,)), ("readlines", ()), ("seek", (0, 2))]
    calls += [("write", ("new\r\nline\n",)), ("seek", (0,)), ("read", ())]
    options = {"mode": mode, "newline": newline, "encoding": encoding}
    _assert_alike(run, tmp_path, _TEXT.encode(encoding), calls, **options)


@_quiet
@given(
    st.sampled_from(("utf-8", "utf-16", "utf-8-sig", "shift_jis", "latin-1")),
    st.sampled_from(_NEWLINES),
    st.text("aé\n\rあ", max_size=60),
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
)
def test_seek_goes_back_to_what_tell_gave(
    run: Run, encoding: str, newline: str | None, content: str, sizes: list[int]
) -> None:
    """The same text follows each position that `tell` gave, in any encoding."""
    if encoding in ("shift_jis", "latin-1"):
        content = content.replace("é", "x").replace("あ", "x" if encoding == "latin-1" else "あ")

    async def main(path: Path) -> None:
        options: Any = {"encoding": encoding, "newline": newline}
        async with threadlets.open(path, **options) as file:
            told = []
            for size in sizes:
                told.append((await file.tell(), size))
                await file.read(size)
            rests = []
            for cookie, _ in told:
                await file.seek(cookie)
                assert cookie == await file.tell()
                rests.append(await file.read())
        with open(path, **options) as model:
            whole = model.read()
        n_read = 0
        for (_, size), rest in zip(told, rests, strict=True):
            assert whole[n_read:] == rest
            n_read = min(n_read + size, len(whole))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content.encode(encoding))
        run(main(path))


@pytest.mark.parametrize("newline", _NEWLINES)
def test_lines_longer_than_any_buffer(run: Run, tmp_path: Path, newline: str | None) -> None:
    """A newline at the edge of what is read at once is found."""
    content = b"".join(b"x" * n + b"\r\n" for n in (65_535, 65_534, 8191, 0, 200_000, 1))
    calls = [("readline", ())] * 7
    for options in ({"mode": "r", "newline": newline}, {"mode": "rb"}):
        _assert_alike(run, tmp_path, content, calls, **options)


def test_iteration_gives_the_lines(run: Run, tmp_path: Path) -> None:
    """`async for` gives lines with their newlines, and `newlines` has those that were met."""
    path = tmp_path / "lines"
    path.write_bytes(b"a\r\nb\n" * 20_000 + b"end")

    async def main() -> None:
        async with threadlets.open(path) as text:
            assert ["a\n", "b\n"] * 20_000 + ["end"] == [line async for line in text]
            assert ("\n", "\r\n") == text.newlines
        async with threadlets.open(path, "rb") as file:
            assert [b"a\r\n", b"b\n"] * 20_000 + [b"end"] == [line async for line in file]

    run(main())


@pytest.mark.parametrize("mode", ["rb", "wb", "xb", "ab", "r+b", "w+b", "x+b", "a+b", "r", "xt+"])
def test_attributes(run: Run, tmp_path: Path, mode: str) -> None:
    """Name, mode and abilities are those of a file of the builtin."""

    def told(file: Any) -> Any:
        able = (file.readable(), file.writable(), file.seekable(), file.isatty())
        return file.name, file.mode, able, os.get_inheritable(file.fileno())

    path = str(tmp_path / "file")

    async def main() -> Any:
        async with threadlets.open(path, mode) as file:
            return told(file)

    outcomes = []
    for is_ours in (False, True):
        Path(path).unlink(missing_ok=True)
        if "x" not in mode:
            Path(path).touch()
        if is_ours:
            outcomes.append(run(main()))
        else:
            with open(path, mode) as file:
                outcomes.append(told(file))
    assert outcomes[0] == outcomes[1]


def _no_opener(_path: str, _flags: int) -> int:
    return -1


_BAD_ARGUMENTS: list[dict[str, Any]] = [
    {"mode": mode} for mode in ("", "rw", "rr", "q", "rbt", "+", "U", "r++", 7)
] + [
    {"mode": "rb", "encoding": "utf-8"},
    {"mode": "rb", "errors": "strict"},
    {"mode": "rb", "newline": "\n"},
    {"mode": "r", "buffering": 0},
    {"mode": "r", "newline": "x"},
    {"mode": "r", "encoding": "no-such"},
    {"mode": "r", "encoding": "hex"},
    {"mode": "r", "closefd": False},
    {"file": -1},
    {"file": 3.5},
    {"file": None},
    {"file": "a\0b"},
    {"file": "/nowhere/at/all"},
    {"file": "/"},
    {"file": b"/"},
    {"file": "/", "mode": "w"},
    {"mode": "x"},
    {"file": 10_000},
    {"file": "/dev/null/x"},
    {"file": "/proc/self/mem", "mode": "r+b", "opener": _no_opener},
]


@pytest.mark.parametrize("bad", _BAD_ARGUMENTS, ids=range(len(_BAD_ARGUMENTS)))
def test_what_the_builtin_refuses_is_refused(run: Run, tmp_path: Path, bad: dict[str, Any]) -> None:
    """The exception is the same, with the same file name."""
    path = tmp_path / "file"
    path.touch()
    arguments = {"file": str(path), **bad}

    async def main() -> None:
        await threadlets.open(**arguments)

    with pytest.raises((OSError, ValueError, TypeError, LookupError)) as expected:
        open(**arguments)  # noqa: SIM115
    with pytest.raises(expected.type) as raised:
        run(main())
    assert expected.type is raised.type
    for name in ("filename", "errno"):
        assert getattr(expected.value, name, None) == getattr(raised.value, name, None)
