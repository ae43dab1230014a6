"""What the documents for contributors name exists: files, code, targets of make, and tests."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

_ROOT = Path(__file__).parent.parent
_DOCUMENTS = ["ARCHITECTURE.md", "CONTRIBUTING.md", "STYLE.md", "docs/glossary.md"]

# What the documents name that is not ours.
_FOREIGN = {
    "ASYNC_CANCEL_ANY",
    "Python.h",
    "block_in_place",
    "perf",
    "pyconfig.h",
    "spawn_blocking",
    "sysmon",
}


def _listed_files() -> list[PurePosixPath]:
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=_ROOT, check=True, capture_output=True, text=True)
    paths = map(PurePosixPath, listed.stdout.splitlines())
    return [path for path in paths if (_ROOT / path).is_file()]


_FILES = _listed_files()
_FOLDERS = {folder for path in _FILES for folder in path.parents}


def _exists(name: str) -> bool:
    """Whether a file or folder has this name, or this end of its path."""
    parts = PurePosixPath(name.removeprefix("./")).parts
    return any(parts == path.parts[-len(parts) :] for path in [*_FILES, *_FOLDERS])


def _code(document: str) -> list[str]:
    """Return what stands in backticks, without blocks."""
    text = re.sub(
        r"^```.*?^```", "", (_ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL
    )
    return re.findall(r"`([^`]+)`", text)


def _map() -> set[str]:
    """Return the paths of ARCHITECTURE.md's map: a line that is indented continues the path above."""
    text = (_ROOT / "ARCHITECTURE.md").read_text()
    (block,) = re.findall(r"^## Map$.*?^```$(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    paths, above = set(), ""
    for line in filter(None, block.splitlines()):
        name = line.split()[0]
        above = above if line.startswith(" ") else name
        paths.add(above + name if line.startswith(" ") else name)
    return paths


@pytest.mark.parametrize("document", _DOCUMENTS)
def test_files_that_a_document_names_exist(document: str) -> None:
    """By their path or the end of it; NAME in a path stands for a name that the reader chooses."""
    text = (_ROOT / document).read_text()
    named = set(re.findall(r"(?<![\w/.*{}-])[\w.][\w./-]*\.(?:rs|pyi?|[ch]|toml|md|cfg)\b", text))
    named |= {
        it for it in _code(document) if re.fullmatch(r"(crates|python|tests|docs)/[\w./]+", it)
    }
    missing = {it for it in named - _FOREIGN if "NAME" not in it and not _exists(it)}
    assert set() == missing


def test_the_map_lists_every_source_file() -> None:
    """ARCHITECTURE.md says of each file what it is for, and of no file that is gone."""
    assert set() == {path for path in _map() if not (_ROOT / path).exists()}
    sources = (
        r"(crates/(core|http|bindings)/(src|tests|benches)|python/threadlets)/.*\.(rs|pyi?|c|h)"
    )
    unlisted = {
        str(path)
        for path in _FILES
        if re.fullmatch(sources, str(path)) and path.name not in ("mod.rs", "__init__.py")
    }
    assert set() == unlisted - _map()


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/glossary.md"])
def test_code_that_a_document_names_exists(document: str) -> None:
    """Each word in backticks occurs in the sources, or is the name of a file."""
    suffixes = {".rs", ".py", ".pyi", ".c", ".h", ".toml", ""}
    sources = [it for it in _FILES if it.suffix in suffixes and it.name != Path(__file__).name]
    known = {word for path in sources for word in re.findall(r"\w+", (_ROOT / path).read_text())}
    known |= {word for path in _FILES for part in path.parts for word in re.findall(r"\w+", part)}
    named = {word for code in _code(document) for word in re.findall(r"\b[A-Za-z_]\w*", code)}
    assert set() == {it for it in named - known - _FOREIGN if "NAME" not in it}


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/releasing.md", ".ci/run"])
def test_targets_of_make_that_a_document_names_exist(document: str) -> None:
    """`make help` lists them."""
    text = (_ROOT / document).read_text()
    named = set(re.findall(r"(?:`|^ *|  )make ([a-z-]+)", text, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set() == named - targets
