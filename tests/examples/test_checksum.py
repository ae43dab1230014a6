"""Checksums by syslets, compared with those of hashlib over plain reads."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from pathlib import Path

import pytest

from examples.syslets.checksum import PIECE_BYTES, SMALL_BYTES, checksums, files_below, main

_N_FILES_WANTED = 100_000
_N_FILES_SHORT = 10_000
_EDGES = (
    0,
    1,
    SMALL_BYTES - 1,
    SMALL_BYTES,
    SMALL_BYTES + 1,
    PIECE_BYTES - 1,
    PIECE_BYTES,
    PIECE_BYTES + 1,
    3 * PIECE_BYTES,
    5 * PIECE_BYTES + 17,
)


def _plain(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.sha256(file.read()).hexdigest()


def _roots() -> list[str]:
    """Return the folders of Pythons on this machine, none of which is inside another."""
    versions = Path(sys.base_prefix).parent
    places = [versions if versions.name == "versions" else Path(sys.base_prefix) / "lib"]
    places += [Path("/usr/lib"), Path("/usr/share"), Path(sys.prefix)]
    roots: list[Path] = []
    for place in places:
        real = place.resolve()
        if real.is_dir() and not any(real.is_relative_to(it) for it in roots):
            roots.append(real)
    return [str(root) for root in roots]


def _readable(n_max: int) -> list[str]:
    paths = itertools.chain.from_iterable(files_below(root) for root in _roots())
    return list(itertools.islice((path for path in paths if os.access(path, os.R_OK)), n_max))


def test_files_of_every_size_have_the_checksums_of_plain_reads(engine: str, tmp_path: Path) -> None:
    """Around the size limit of small files and of pieces, no byte is lost or read twice."""
    expected = {}
    for size in _EDGES:
        content = os.urandom(size)
        path = tmp_path / str(size)
        path.write_bytes(content)
        expected[str(path)] = hashlib.sha256(content).hexdigest()
    assert expected == dict(checksums(expected))


def test_a_tree_of_python_has_the_checksums_of_plain_reads(engine: str) -> None:
    """The tree has ten thousand files, of the Pythons on this machine."""
    paths = _readable(_N_FILES_SHORT)
    assert {path: _plain(path) for path in paths} == dict(checksums(paths))


@pytest.mark.slow
def test_a_hundred_thousand_files_have_the_checksums_of_plain_reads(engine: str) -> None:
    """There are so many files that none of them can be held open."""
    paths = _readable(_N_FILES_WANTED)
    if len(paths) < _N_FILES_WANTED:
        pytest.skip(f"there are only {len(paths):,} files here")
    sums = checksums(paths)
    assert _N_FILES_WANTED == sum(_plain(path) == digest for path, digest in sums)


def test_what_cannot_be_read_is_told_and_the_rest_is_summed(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that has gone meanwhile has an error of its own."""
    (tmp_path / "here").write_bytes(b"content")
    gone = str(tmp_path / "gone")
    outcomes = dict(checksums([gone, str(tmp_path / "here")]))
    assert isinstance(outcomes[gone], FileNotFoundError)
    monkeypatch.setattr(sys, "argv", ["checksum", str(tmp_path)])
    assert 0 == main()
    expected = f"{hashlib.sha256(b'content').hexdigest()}  {tmp_path / 'here'}\n"
    assert expected == capsys.readouterr().out
