"""The files to read: many small ones in folders, the same on every machine, created once."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from benches.placement import ROOT

SIZE_MIN = 1024
SIZE_MAX = 4096
_N_FOLDERS_MAX = 100
#: In the build folder, which is probably on a disk.
_PARENT = ROOT / "target" / "files"


@dataclass(frozen=True)
class Corpus:
    """Files on the disk. Paths are relative to the repository, where every benchmark runs."""

    n_files: int
    n_bytes: int
    #: A file with one path a line: folder by folder, shuffled within each, as folders are listed.
    paths_file: Path

    @property
    def paths(self) -> list[str]:
        """Every file once, in the order in which all peers read them."""
        return self.paths_file.read_text().splitlines()


def prepare(n_files: int, parent: Path = _PARENT) -> Corpus:
    """Return the corpus of so many files; create it if it is missing or incomplete."""
    directory = parent / str(n_files)
    complete = directory / "complete.json"
    paths_file = directory / "paths"
    if not complete.exists():
        shutil.rmtree(directory, ignore_errors=True)
        n_bytes = _write(directory, paths_file, n_files)
        complete.write_text(json.dumps({"n_bytes": n_bytes}))
    return Corpus(n_files, json.loads(complete.read_text())["n_bytes"], paths_file)


def _write(directory: Path, paths_file: Path, n_files: int) -> int:
    # One corpus for every peer, round and machine.
    generator = random.Random(7)
    n_folders = min(_N_FOLDERS_MAX, n_files)
    n_bytes = 0
    paths: list[str] = []
    for folder_idx in range(n_folders):
        folder = directory / f"{folder_idx:03}"
        folder.mkdir(parents=True)
        ours = [folder / f"{idx:06}" for idx in range(folder_idx, n_files, n_folders)]
        for path in ours:
            size = generator.randint(SIZE_MIN, SIZE_MAX)
            path.write_bytes(generator.randbytes(size))
            n_bytes += size
            # The first read after a change writes the time of access, later ones do not.
            path.read_bytes()
        generator.shuffle(ours)
        paths += [_relative(path) for path in ours]
    paths_file.write_text("".join(f"{path}\n" for path in paths))
    return n_bytes


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
