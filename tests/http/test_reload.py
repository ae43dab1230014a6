"""What `--reload` notices."""

from __future__ import annotations

import contextlib
import importlib.util
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadlets.http._reload import Patterns, Watcher

_DEADLINE_S = 20.0


@pytest.fixture(params=[False, True], ids=["stat", "watchfiles"])
def use_watchfiles(request: pytest.FixtureRequest) -> bool:
    """Return whether watchfiles is used."""
    if request.param and importlib.util.find_spec("watchfiles") is None:
        pytest.skip("watchfiles is not installed")
    return bool(request.param)


@contextlib.contextmanager
def _watching(folder: Path, use_watchfiles: bool, patterns: Patterns) -> Iterator[Watcher]:
    watcher = Watcher([str(folder)], patterns, use_watchfiles=use_watchfiles)
    try:
        yield watcher
    finally:
        watcher.close()


def _wait(watcher: Watcher) -> list[str]:
    assert select.select([watcher.fd], [], [], _DEADLINE_S)[0]
    return [Path(it).name for it in watcher.take_changed()]


@pytest.mark.parametrize("change", ["write", "create", "remove", "rename"])
def test_changes_of_python_files_are_noticed(
    tmp_path: Path, use_watchfiles: bool, change: str
) -> None:
    """However they change, in folders below, too."""
    (tmp_path / "inside").mkdir()
    file = tmp_path / "inside" / "module.py"
    if change != "create":
        file.write_text("a = 1\n")
    with _watching(tmp_path, use_watchfiles, Patterns()) as watcher:
        if use_watchfiles:
            # It may look some time after it was told to; a change before is not missed by `stat`.
            _settle(tmp_path, watcher)
        if change == "remove":
            file.unlink()
        elif change == "rename":
            file.rename(tmp_path / "inside" / "renamed.py")
        else:
            file.write_text("b = 22\n")
        assert set(_wait(watcher)) & {"module.py", "renamed.py"}
        assert [] == watcher.take_changed()


def test_other_files_are_noticed_where_asked_for(tmp_path: Path, use_watchfiles: bool) -> None:
    """Not those of other names, of hidden folders, or that are left out."""
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "left_out").mkdir()
    patterns = Patterns(included=["*.html"], excluded=["left_out"])
    with _watching(tmp_path, use_watchfiles, patterns) as watcher:
        if use_watchfiles:
            _settle(tmp_path, watcher)
        for name in ("a.css", ".hidden/b.py", "left_out/c.py", ".d.py", "e.py~", "f.html"):
            (tmp_path / name).write_text("x")
        assert ["f.html"] == _wait(watcher)


def _settle(folder: Path, watcher: Watcher) -> None:
    """Wait until the watcher has noticed something."""
    for number in range(200):
        (folder / "settle.py").write_text(f"{number}")
        if select.select([watcher.fd], [], [], 0.1)[0]:
            break
    # What it had still to say of that file.
    while select.select([watcher.fd], [], [], 0.5)[0]:
        watcher.take_changed()
