"""Build the wheels for every CPython, and the sdist: ``python wheels/build.py [--minor 3.13 …]``.

The wheels run on any x86_64 Linux with glibc 2.17 or newer; with ``--target aarch64``, on any such
aarch64 Linux, with ``--target musl``, on any x86_64 Linux with musl 1.2. Both need Rust's standard
library and a C compiler for it (Debian's gcc-aarch64-linux-gnu, musl-tools). The same sources,
compilers and interpreters' headers give the same bytes; `wheels/reproduce.py` checks that.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pythons import MINORS, ROOT, WORK, Python, find

GLIBC_MAX = "2.17"


@dataclass(frozen=True)
class Target:
    """What wheels are built for."""

    #: Rust's name for it.
    triple: str
    #: The C compiler.
    compiler: str
    #: The wheels' platform tag.
    platform: str
    #: zig's name for it, with the oldest libc.
    zig: str
    #: glibc unwinds a thread that `pthread_exit` ends, by the process's libgcc_s. musl unwinds none: there
    #: the wheel's own unwinder, which Rust's panics need, is the only one.
    has_glibc: bool = True

    @property
    def is_native(self) -> bool:
        """Whether this machine's interpreters can tell maturin about it."""
        return self.triple == "x86_64-unknown-linux-gnu"


def _glibc(machine: str, compiler: str) -> Target:
    platform = f"manylinux_{GLIBC_MAX.replace('.', '_')}_{machine}"
    zig = f"{machine}-linux-gnu.{GLIBC_MAX}"
    return Target(f"{machine}-unknown-linux-gnu", compiler, platform, zig)


TARGETS = {
    "x86_64": _glibc("x86_64", "cc"),
    "aarch64": _glibc("aarch64", "aarch64-linux-gnu-gcc"),
    "musl": Target(
        "x86_64-unknown-linux-musl",
        "musl-gcc",
        "musllinux_1_2_x86_64",
        "x86_64-linux-musl",
        has_glibc=False,
    ),
}
DEFAULT_TARGET = TARGETS["x86_64"]
TOOLS = Path(sys.executable).parent
#: Functions that must come from the process's unwinder, not from one in the wheel.
_UNWINDER = ("_Unwind_Resume", "_Unwind_RaiseException", "__gcc_personality_v0")
#: All that a library may export. Since CPython 3.15 a module has two entry points.
_EXPORTED = {"PyInit__core", "PyModExport__core", "threadlets_free_call"}


def main() -> None:
    """Build and check the wheels, and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minor", action="append", choices=MINORS, help="all, if left out")
    parser.add_argument("--target", choices=TARGETS, default="x86_64")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--no-sdist", action="store_true")
    options = parser.parse_args()
    pythons = [find(minor) for minor in options.minor or MINORS]
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("threadlets-*"):
        old.unlink()
    target = TARGETS[options.target]
    for python in pythons:
        wheel = build_wheel(ROOT, python, options.out, target=target)
        n_bytes = check_wheel(wheel, target)
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, library {n_bytes:,}", flush=True)
    if not options.no_sdist:
        run("maturin", "sdist", "--out", options.out, env=environment(ROOT))
        (sdist,) = options.out.glob("*.tar.gz")
        print(f"{sdist.name}: {sdist.stat().st_size:,} bytes", flush=True)
    run("twine", "check", "--strict", *sorted(options.out.glob("threadlets-*")))


def build_wheel(
    sources: Path, python: Python, out: Path, work: Path = WORK, target: Target = DEFAULT_TARGET
) -> Path:
    """Build one wheel from a source tree; return its path."""
    before = set(out.glob("*.whl"))
    # For another target the interpreter's name is enough: maturin knows its properties.
    interpreter = python.executable if target.is_native else f"python{python.minor}"
    argv = [
        *("maturin", "build", "--quiet", "--release", "--strip", "--target", target.triple),
        *("--compatibility", target.platform, "--auditwheel", "check"),
        *("--interpreter", interpreter, "--out", out),
        *("--manifest-path", sources / "crates/bindings/Cargo.toml"),
    ]
    env = environment(sources, work, target)
    # CPython's headers are the same for all 64-bit machines: where these differ, the headers check.
    env["THREADLETS_HEADERS"] = ":".join(map(str, python.headers))
    run(*argv, env=env, cwd=sources)
    (wheel,) = set(out.glob("*.whl")) - before
    return wheel


def environment(
    sources: Path, work: Path = WORK, target: Target = DEFAULT_TARGET
) -> dict[str, str]:
    """Return a build's environment: its linker, and no path or time of this machine in the output."""
    cargo_home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    sysroot = output("rustc", "--print", "sysroot").strip()
    places = {sources: "threadlets", cargo_home: "cargo", sysroot: "rust", work: "target"}
    remaps = " ".join(f"--remap-path-prefix={place}=/{name}" for place, name in places.items())
    triple = target.triple.replace("-", "_")
    return {
        **{name: value for name, value in os.environ.items() if name != "CPATH"},
        "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH") or _last_change(),
        "CARGO_TARGET_DIR": str(work),
        # A library for musl takes libc from the process, too.
        "RUSTFLAGS": remaps if target.has_glibc else f"{remaps} -C target-feature=-crt-static",
        f"CC_{triple}": target.compiler,
        f"CFLAGS_{triple}": f"-ffile-prefix-map={sources}=/threadlets",
        f"CARGO_TARGET_{triple.upper()}_LINKER": str(ROOT / "wheels" / "linker"),
        "WHEEL_TARGET": target.triple,
        "WHEEL_ZIG_TARGET": target.zig,
        "WHEEL_CC": target.compiler,
        "WHEEL_UNWINDER": "libgcc_s" if target.has_glibc else "",
        "WHEEL_PYTHON": sys.executable,
        "ZIG_GLOBAL_CACHE_DIR": str(WORK / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(WORK / "zig"),
    }


def _last_change() -> str:
    return output("git", "-C", ROOT, "log", "-1", "--format=%ct").strip()


def check_wheel(wheel: Path, target: Target = DEFAULT_TARGET) -> int:
    """Refuse a wheel that has the wrong unwinder, exports too much, or needs a newer libc.

    Return the size of its library in bytes.
    """
    folder = WORK / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.unpack_archive(wheel, folder, "zip")
    (library,) = folder.glob("threadlets/_core.*.so")
    symbols = output("nm", "--dynamic", "--with-symbol-versions", library)
    for name in _UNWINDER:
        is_libgcc_s = re.search(rf" U {name}@GCC_", symbols) is not None
        if is_libgcc_s != target.has_glibc:
            raise SystemExit(f"{wheel.name}: {name} is from the wrong unwinder: see wheels/linker")
    exported = set(re.findall(r"^[0-9a-f]+ \w (\w+)", symbols, re.MULTILINE))
    if not exported <= _EXPORTED:
        raise SystemExit(f"{wheel.name} must not export {sorted(exported - _EXPORTED)}")
    for place in (ROOT, Path.home()):
        if str(place).encode() in library.read_bytes():
            raise SystemExit(f"{wheel.name} contains the path {place}")
    licences = {path.name for path in folder.glob("*.dist-info/licenses/*")}
    if licences != {"LICENSE", "LICENSE-THIRD-PARTY"}:
        raise SystemExit(f"{wheel.name} has these licences: {sorted(licences)}")
    _check_libraries(wheel, library, target)
    return library.stat().st_size


def _check_libraries(wheel: Path, library: Path, target: Target) -> None:
    """Refuse a wheel that needs a library which the platform does not promise."""
    if not target.has_glibc:
        # musl's loader knows itself by this name. auditwheel expects the one that Alpine gives it.
        needed = re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "--dynamic", library))
        if needed != ["libc.so"]:
            raise SystemExit(f"{wheel.name} needs these libraries: {needed}")
        return
    # auditwheel only checks here.
    shown = " ".join(output(TOOLS / "auditwheel", "show", wheel).split())
    if f'consistent with the following platform tag: "{target.platform}"' not in shown:
        raise SystemExit(f"{wheel.name} is not {target.platform}: {shown}")


def run(program: str, *arguments: object, **options: object) -> None:
    """Run a tool that is installed beside this interpreter."""
    subprocess.run([TOOLS / program, *map(str, arguments)], check=True, **options)  # type: ignore[call-overload]


def output(*argv: object) -> str:
    """Return what a command prints."""
    return subprocess.run([*map(str, argv)], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
