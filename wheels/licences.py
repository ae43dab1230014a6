"""Writes LICENSE-THIRD-PARTY: licences of all code in the wheels. ``--check`` fails if it is old.

Where a crate offers several licences, it is used under MIT if that is one of them. The licences of those
that do not offer it are listed here, and pyproject.toml's expression has to name each of them, and no
other; a crate under any other licence is an error. Code in the wheels: the normal dependencies of the
bindings, without procedural macros, and Rust's standard library with the crates that it is made of.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_FILE = _ROOT / "LICENSE-THIRD-PARTY"
_TARGET = "x86_64-unknown-linux-gnu"
_RULE = "=" * 80
_HEAD = """\
The wheels of threadlets contain the following, compiled, each under the licence that stands with it.
This file is written by wheels/licences.py.
"""
# Other licences under which we pass code on, all of which ask for no more than their text and notices.
_ACCEPTED = {"Apache-2.0", "BSD-3-Clause", "ISC", "Zlib"}
# Of Unicode's tables in Rust's standard library, and the package's own.
_ALWAYS = {"MIT", "Unicode-3.0"}
_MIT_FILES = ("LICENSE-MIT", "LICENSE", "LICENSE.md", "LICENSE.txt")
_RUST_COPYRIGHT = "Copyright (c) The Rust Project Developers (see https://thanks.rust-lang.org)\n\n"
# In the library's folder, the crates that are Rust's own, or for its compiler and test runner only.
_RUST_OWN = re.compile(
    "alloc|core|std|std_detect|unwind|panic_.*|compiler_builtins|rustc_std_.*|sysroot|proc_macro|"
    "profiler_builtins|rustc_literal_escaper|test|getopts"
)


def main() -> None:
    """Write the file, or check the part of it that depends on Cargo.lock."""
    linked = _crates()
    _check_expression(_ALWAYS | {name for package in linked for name in _chosen(package)})
    crates = "".join(
        _entry(f"{it['name']} {it['version']} ({' AND '.join(_chosen(it))})", _text(it))
        for it in linked
    )
    if sys.argv[1:] == ["--check"]:
        if not _FILE.read_text().startswith(_HEAD + crates):
            raise SystemExit(f"{_FILE.name} is older than Cargo.lock: run `make licences`")
        return
    _FILE.write_text(_HEAD + crates + _standard_library())


def _check_expression(needed: set[str]) -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    expected = " AND ".join(["MIT", *sorted(needed - {"MIT"})])
    if project["license"] != expected:
        raise SystemExit(
            f"pyproject.toml says license = {project['license']!r}, and the wheels are under "
            f"{expected!r}: write that"
        )


def _entry(name: str, text: str) -> str:
    return f"\n{_RULE}\n{name}\n{_RULE}\n\n{text.strip()}\n"


def _crates() -> list[dict[str, Any]]:
    packages, nodes = _resolved(_ROOT / "Cargo.toml", "--locked")
    (root,) = (it for it in packages if packages[it]["name"] == "threadlets-bindings")
    linked, rest = set(), [root]
    while rest:
        package = rest.pop()
        if package in linked or _is_macro(packages[package]):
            continue
        linked.add(package)
        rest += [
            dependency["pkg"]
            for dependency in nodes[package]["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
        ]
    foreign = [packages[it] for it in linked if packages[it]["source"] is not None]
    return sorted(foreign, key=lambda package: (package["name"], package["version"]))


def _resolved(manifest: Path, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the packages of a manifest, and the dependencies of each."""
    argv = ["cargo", "metadata", "--quiet", "--format-version=1", *options]
    argv += [f"--filter-platform={_TARGET}", f"--manifest-path={manifest}"]
    metadata = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    return packages, {node["id"]: node for node in metadata["resolve"]["nodes"]}


def _is_macro(package: dict[str, Any]) -> bool:
    return any("proc-macro" in target["kind"] for target in package["targets"])


def _chosen(package: dict[str, Any]) -> list[str]:
    """Return the licences under which a crate is passed on: MIT, or all of those that it asks for."""
    alternatives = re.split(r" OR |/", package["license"] or "")
    for alternative in sorted(map(str.strip, alternatives), key=lambda it: it != "MIT"):
        names = alternative.split(" AND ")
        if set(names) <= _ACCEPTED | {"MIT"}:
            return names
    raise SystemExit(
        f"{package['name']} is under {package['license']}, which is none of the licences that "
        f"{Path(__file__).name} accepts: leave it out, or add its licence there if its terms allow that"
    )


def _text(package: dict[str, Any]) -> str:
    """Return the licence of a crate, with the notices of what it has from others."""
    folder = Path(package["manifest_path"]).parent
    found = sorted(path.name for path in folder.glob("LICENSE*"))
    if _chosen(package) == ["MIT"]:
        own = [name for name in _MIT_FILES if name in found][:1]
    else:
        own = found
    if not own:
        raise SystemExit(f"{package['name']} lacks the text of its licence: leave it out")
    others = [it for it in ("LICENSE-THIRD-PARTY", "NOTICE") if (folder / it).exists()]
    names = [*own, *(it for it in others if it not in own)]
    return "\n\n".join((folder / name).read_text().strip() for name in names)


def _standard_library() -> str:
    """Return the licences of Rust's library, and of the crates that are in it.

    The toolchain's own list lacks some of them, so their texts come from the registry.
    """
    rustc, sysroot = _output("rustc", "--version"), Path(_output("rustc", "--print", "sysroot"))
    licences = sysroot / "share/doc/rust/licenses"
    library = sysroot / "lib/rustlib" / _TARGET / "lib"
    parts = {path.name[3:].rsplit("-", 1)[0].replace("_", "-") for path in library.glob("*.rlib")}
    parts = {{"miniz-oxide": "miniz_oxide"}.get(part, part) for part in parts}
    foreign = sorted(part for part in parts if not _RUST_OWN.fullmatch(part.replace("-", "_")))
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "Cargo.toml"
        needs = "".join(f'{name} = "*"\n' for name in foreign)
        manifest.write_text(
            f"[package]\nname = 'parts'\nversion = '0.0.0'\n[lib]\npath = 'lib.rs'\n"
            f"[dependencies]\n{needs}"
        )
        (Path(folder) / "lib.rs").touch()
        packages, _ = _resolved(manifest)
        direct = [package for package in packages.values() if package["name"] in foreign]
        texts = {package["name"]: _text(package) for package in direct}
    mit = (licences / "MIT.txt").read_text()
    entries = [_entry(f"Rust's standard library ({rustc})", _RUST_COPYRIGHT + mit)]
    entries += [_entry(f"{name}, in Rust's standard library", texts[name]) for name in foreign]
    tables = (licences / "Unicode-3.0.txt").read_text()
    entries.append(_entry("Unicode's tables, in Rust's standard library", tables))
    return "".join(entries)


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
