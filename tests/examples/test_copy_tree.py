"""Copies by syslets, compared with their sources by plain means."""

from __future__ import annotations

import filecmp
import os
import stat
import sys
from pathlib import Path

import pytest

from examples.syslets.copy_tree import copy_tree, differences, main, survey

_MODES = (0o600, 0o644, 0o755, 0o400, 0o4750)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a small tree with modes, links, odd names and empty folders."""
    root = tmp_path / "source"
    for level in range(6):
        (root / "/".join(f"level {it}" for it in range(level))).mkdir(parents=True, exist_ok=True)
    for number, mode in enumerate(_MODES):
        path = root / "level 0" / f"{number} \udcff"
        path.write_bytes(os.urandom(number * 70_001))
        path.chmod(mode)
    (root / "link").symlink_to("level 0/level 1")
    (root / "nowhere").symlink_to("/does/not/exist")
    (root / "level 0" / "level 1").chmod(0o500)
    (root / "empty").mkdir(mode=0o711)
    return root


def _plainly(root: Path) -> dict[str, object]:
    described: dict[str, object] = {}
    for folder, _, _ in os.walk(root):
        for entry in [*os.scandir(folder)]:
            status = entry.stat(follow_symlinks=False)
            content: object = None
            if entry.is_symlink():
                content = os.readlink(entry.path)
            elif entry.is_file():
                content = Path(entry.path).read_bytes()
            described[os.path.relpath(entry.path, root)] = (status.st_mode, content)
    return described


def test_a_copy_has_the_contents_modes_and_links_of_its_source(
    engine: str, source: Path, tmp_path: Path
) -> None:
    """The umask does not matter, and folders may be read-only."""
    target = tmp_path / "target"
    before = os.umask(0o077)
    try:
        assert [] == copy_tree(str(source), str(target))
    finally:
        assert 0o077 == os.umask(before)
    assert _plainly(source) == _plainly(target)
    assert [] == differences(str(source), str(target))


def test_the_standard_library_is_copied(engine: str, tmp_path: Path) -> None:
    """Hundreds of files are equal to their copies, byte by byte."""
    library, target = os.path.dirname(os.__file__), str(tmp_path / "target")
    names = ["asyncio", "email", "encodings", "json", "test", "unittest", "xml"]
    n_files = 0
    os.mkdir(target)
    for name in names:
        if not os.path.isdir(source := os.path.join(library, name)):
            continue
        copy = os.path.join(target, name)
        assert [] == copy_tree(source, copy)
        files = survey(source).files
        assert (files, [], []) == filecmp.cmpfiles(source, copy, files, shallow=False)
        n_files += len(files)
    assert n_files > 300


def test_a_difference_is_found(engine: str, source: Path, tmp_path: Path) -> None:
    """A content, a mode, a link and a name that differ are found."""
    target = tmp_path / "target"
    copy_tree(str(source), str(target))
    (target / "level 0" / "0 \udcff").write_bytes(b"more")
    (target / "empty").chmod(0o700)
    (target / "link").unlink()
    (target / "another").write_bytes(b"")
    expected = sorted(["level 0/0 \udcff", "empty", "link", "another"])
    assert expected == differences(str(source), str(target))


def test_what_is_no_file_is_told(engine: str, source: Path, tmp_path: Path) -> None:
    """A named pipe is not copied; all the rest is."""
    os.mkfifo(source / "pipe")
    failures = copy_tree(str(source), str(tmp_path / "target"))
    assert ["pipe"] == [path for path, _ in failures]
    assert not stat.S_ISFIFO(os.stat(tmp_path / "target" / "empty").st_mode)


def test_the_command_refuses_a_target_that_exists(
    engine: str,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first copy is verified, and the second is refused."""
    arguments = ["copy_tree", "--verify", str(source), str(tmp_path / "target")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert 0 == main()
    assert 1 == main()
    assert "File exists" in capsys.readouterr().err
