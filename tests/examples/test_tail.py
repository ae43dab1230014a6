"""Following a thousand files, some of which are cut or replaced."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import threadlets

from examples.syslets.tail import PIECE_BYTES, Tail

_ROOT = Path(__file__).parents[2]
_N_FILES = 1000
_INTERVAL_S = 0.02


def _append(path: str, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)


def _take(tail: Tail, n_lines: int) -> list[tuple[str, bytes]]:
    return list(itertools.islice(tail, n_lines))


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Write many files with a line in each."""
    paths = [str(tmp_path / f"{number}.log") for number in range(_N_FILES)]
    for path in paths:
        _append(path, b"old\n")
    return paths


def test_a_thousand_files_are_followed_at_once(engine: str, paths: list[str]) -> None:
    """Each file has a run in flight; each line comes once, and those of a file in order."""
    with Tail(paths, _INTERVAL_S) as tail:
        assert _N_FILES == threadlets.engine().in_flight
        for number in range(3):
            for path in paths:
                _append(path, f"{path} {number}\n".encode())
        seen: dict[str, list[bytes]] = {path: [] for path in paths}
        for path, line in _take(tail, 3 * _N_FILES):
            seen[path].append(line)
    assert {path: [f"{path} {number}".encode() for number in range(3)] for path in paths} == seen


def test_a_line_comes_when_it_is_complete(engine: str, paths: list[str]) -> None:
    """A line may be of any length, and be written in any number of pieces."""
    long = b"x" * (3 * PIECE_BYTES)
    with Tail(paths[:2], _INTERVAL_S) as tail:
        _append(paths[0], b"begin")
        _append(paths[1], b"another\n")
        assert [(paths[1], b"another")] == _take(tail, 1)
        _append(paths[0], b"ning\n" + long + b"\n\n")
        assert [(paths[0], b"beginning"), (paths[0], long), (paths[0], b"")] == _take(tail, 3)


def test_a_file_that_is_cut_is_told_from_its_beginning(engine: str, paths: list[str]) -> None:
    """A file that is shorter than before has been written anew."""
    with Tail(paths[:1], _INTERVAL_S) as tail:
        with open(paths[0], "wb") as file:
            file.write(b"a\n")
        assert [(paths[0], b"a")] == _take(tail, 1)


def test_a_file_that_is_replaced_is_told_to_its_end(engine: str, paths: list[str]) -> None:
    """The new file of that name follows, from its beginning."""
    with Tail(paths[:1], _INTERVAL_S) as tail:
        _append(paths[0], b"last\nunfinished")
        os.rename(paths[0], paths[0] + ".1")
        _append(paths[0], b"first\n")
        lines = [line for _, line in _take(tail, 3)]
        assert [b"last", b"unfinished", b"first"] == lines


def test_a_file_that_comes_later_is_told_from_its_beginning(engine: str, tmp_path: Path) -> None:
    """The tail waits for a file that does not exist yet; closing the tail ends such a wait."""
    path, never = str(tmp_path / "later"), str(tmp_path / "never")
    with Tail([path, never], _INTERVAL_S) as tail:
        _append(path, b"here\n")
        assert [(path, b"here")] == _take(tail, 1)


def test_what_cannot_be_read_is_raised(engine: str, tmp_path: Path) -> None:
    """A folder has no lines."""
    with pytest.raises(IsADirectoryError), Tail([str(tmp_path)], _INTERVAL_S) as tail:
        next(iter(tail))


def test_the_command_prints_lines_until_it_is_interrupted(tmp_path: Path) -> None:
    """The name of the file comes before its lines, as with tail(1)."""
    path = tmp_path / "file"
    path.write_text("line\n")
    command = [sys.executable, "-m", "examples.syslets.tail", "--from-start", str(path)]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert f"==> {path} <==\n" == process.stdout.readline()
            assert "line\n" == process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert 0 == process.wait(10)
        finally:
            process.kill()
