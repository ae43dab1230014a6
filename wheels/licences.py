"""Writes LICENSE-THIRD-PARTY: licences of all code in the wheels. ``--check`` fails if it is old.

All of it may be used under the MIT licence, which is why the package's own expression is MIT; a crate
for which this is not so is an error. Code in the wheels: the normal dependencies of the bindings,
without procedural macros, and Rust's standard library with the crates that it is made of.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_FILE = _ROOT / "LICENSE-THIRD-PARTY"
_TARGET = "x86_64-unknown-linux-gnu"
_RULE = "=" * 80
_HEAD = """\
The wheels of threadlets contain the following, compiled, each under the MIT licence.
This file is written by wheels/licences.py.
"""
_RUST_COPYRIGHT = "Copyright (c) The Rust Project Developers (see https://thanks.rust-lang.org)\n\n"
# In the library's folder, the crates that are Rust's own, or for its compiler and test runner only.
_RUST_OWN = re.compile(
    "alloc|core|std|std_detect|unwind|panic_.*|compiler_builtins|rustc_std_.*|sysroot|proc_macro|"
    "profiler_builtins|rustc_literal_escaper|test|getopts"
)


def main() -> None:
    """Write the file, or check the part of it that depends on Cargo.lock."""
    crates = "".join(_entry(*crate) for crate in _crates())
    if sys.argv[1:] == ["--check"]:
        if not _FILE.read_text().startswith(_HEAD + crates):
            raise SystemExit(f"{_FILE.name} is older than Cargo.lock: run `make licences`")
        return
    _FILE.write_text(_HEAD + crates + _standard_library())


def _entry(name: str, text: str) -> str:
    return f"\n{_RULE}\n{name}\n{_RULE}\n\n{text.strip()}\n"


def _crates() -> list[tuple[str, str]]:
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
    foreign.sort(key=lambda package: (package["name"], package["version"]))
    return [(f"{package['name']} {package['version']}", _text(package)) for package in foreign]


def _resolved(manifest: Path, *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the packages of a manifest, and the dependencies of each."""
    argv = ["cargo", "metadata", "--quiet", "--format-version=1", *options]
    argv += [f"--filter-platform={_TARGET}", f"--manifest-path={manifest}"]
    metadata = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    return packages, {node["id"]: node for node in metadata["resolve"]["nodes"]}


def _is_macro(package: dict[str, Any]) -> bool:
    return any("proc-macro" in target["kind"] for target in package["targets"])


def _text(package: dict[str, Any]) -> str:
    alternatives = re.split(r" OR |/", package["license"] or "")
    folder = Path(package["manifest_path"]).parent
    for name in ("LICENSE-MIT", "LICENSE", "LICENSE.md", "LICENSE.txt"):
        if "MIT" in alternatives and (folder / name).exists():
            return (folder / name).read_text()
    raise SystemExit(
        f"{package['name']} is not under the MIT licence ({package['license']}), or lacks its "
        "text: leave it out, or name its licence in the expression in pyproject.toml"
    )


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
