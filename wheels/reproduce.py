"""Build wheels again from the sdist, in another place, and compare them bytewise with those in dist/.

``python wheels/reproduce.py [--minor 3.13 …]``, after `make wheels`.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path

from build import build_wheel
from pythons import MINORS, ROOT, find


def main() -> None:
    """Print for each wheel whether it is the same; the exit status is 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minor", action="append", choices=MINORS, help="3.13, if left out")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    (sdist,) = options.dist.glob("*.tar.gz")
    are_same = [_is_same(minor, sdist, options.dist) for minor in options.minor or ("3.13",)]
    raise SystemExit(not all(are_same))


def _is_same(minor: str, sdist: Path, dist: Path) -> bool:
    python = find(minor)
    with tempfile.TemporaryDirectory(prefix="elsewhere-") as folder:
        shutil.unpack_archive(sdist, folder, filter="data")
        (sources,) = Path(folder).iterdir()
        again = build_wheel(sources, python, Path(folder) / "dist", Path(folder) / "work")
        before = dist / again.name
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (before, again)]
        if hashes[0] == hashes[1]:
            print(f"{again.name}: the same, sha256 {hashes[0]}")
            return True
        print(f"{again.name}: differs in {', '.join(_differences(before, again)) or 'the archive'}")
        return False


def _differences(one: Path, other: Path) -> list[str]:
    with zipfile.ZipFile(one) as first, zipfile.ZipFile(other) as second:
        names = sorted({*first.namelist(), *second.namelist()})
        contents = [
            {name: archive.read(name) for name in archive.namelist()} for archive in (first, second)
        ]
    return [name for name in names if contents[0].get(name) != contents[1].get(name)]


if __name__ == "__main__":
    main()
