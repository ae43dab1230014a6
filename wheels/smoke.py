"""Install each wheel in an empty environment and use it: ``python wheels/smoke.py [--minor 3.13 …]``.

The environment has no network, no compiler and no Rust: other packages are downloaded before. Each
interpreter gets one environment that is made by venv and pip, and one that is made by uv.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import http.client
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from build import TOOLS
from pythons import MINORS, ROOT, WORK, Python, find

_PROGRAMS = ROOT / "wheels" / "programs"
_TIMEOUT_S = 60
#: How often an exit is tried: what the threads do at that moment is a matter of chance.
_N_EXITS = 10
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


class Environment:
    """A fresh virtual environment, in which programs can be run."""

    def __init__(self, python: Python, folder: Path) -> None:
        self._python = python
        self.folder = folder
        self.bin = folder / "venv" / "bin"

    def command(self, *argv: object) -> list[str]:
        """Return the command for a program that sees this environment and nothing else."""
        clean = ["/usr/bin/env", "-i", f"PATH={self.bin}", "LANG=C.UTF-8", f"HOME={self.folder}"]
        clean += ["PIP_CONFIG_FILE=/dev/null", "PIP_DISABLE_PIP_VERSION_CHECK=1"]
        return self._python.run_in_place(*clean, *map(str, argv))

    def run(self, *argv: object, status: int = 0) -> str:
        """Run a program that must print nothing on standard error; return its output."""
        done = self.complete(*argv)
        said = " ".join(map(str, argv))
        assert (status, "") == (done.returncode, done.stderr), (
            f"{said} ended with status {done.returncode}, and said: {done.stderr}"
        )
        return done.stdout

    def complete(self, *argv: object) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, whatever its status is."""
        return subprocess.run(
            self.command(*argv), cwd=self.folder, capture_output=True, text=True, timeout=_TIMEOUT_S
        )

    def python(self, *argv: object, status: int = 0) -> str:
        """Run the environment's interpreter."""
        return self.run(self.bin / "python", *argv, status=status)

    def program(self, name: str, status: int = 0) -> None:
        """Run one of the programs beside this file."""
        self.python("-W", "error", _PROGRAMS / f"{name}.py", status=status)


def main() -> None:
    """Test the wheels of all versions; the exit status is 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minor", action="append", choices=MINORS, help="all, if left out")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--python", type=Path, help="one of another libc, for a single --minor")
    parser.add_argument("--packages", type=Path, help="where its packages are; not downloaded then")
    options = parser.parse_args()
    if options.python:
        if len(options.minor or ()) != 1:
            parser.error("--python is the interpreter of one version: name it by a single --minor")
        pythons = [Python(options.minor[0], options.python.absolute(), ())]
    else:
        pythons = [find(minor) for minor in options.minor or MINORS]
    if not options.packages:
        for python in pythons:
            download(python, _wheel(python.minor, options.dist))
    go_offline()
    n_failed = sum(
        _smoke(python, options.dist, options.packages or _packages(python.minor))
        for python in pythons
    )
    raise SystemExit(min(n_failed, 1))


def _wheel(minor: str, dist: Path) -> Path:
    tag = f"cp{minor.replace('.', '')}"
    found = list(dist.glob(f"threadlets-*-{tag}-{tag}-*.whl"))
    if len(found) != 1:
        raise SystemExit(f"{dist} has {len(found)} wheels for CPython {minor}: run `make wheels`")
    return found[0]


def _packages(minor: str) -> Path:
    return WORK / "packages" / minor


def download(python: Python, wheel: Path) -> None:
    """Download the packages that the extras need for one interpreter; build those without a wheel."""
    folder, packages = WORK / "downloading", _packages(python.minor)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(packages, ignore_errors=True)
    in_place = python.run_in_place
    subprocess.run(in_place(python.in_place, "-m", "venv", folder), check=True)
    pip = in_place(folder / "bin" / "python", "-m", "pip", "--quiet")
    requirement = f"threadlets[serve] @ {wheel.as_uri()}"
    subprocess.run([*pip, "wheel", "--wheel-dir", str(packages), requirement], check=True)
    for own in packages.glob("threadlets-*"):
        own.unlink()


def go_offline() -> None:
    """Cut this process and its children off the network, except for the loopback interface."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWNET | _CLONE_NEWUSER
    if libc.unshare(flags) != 0:
        error = os.strerror(ctypes.get_errno())
        raise SystemExit(f"cannot leave the network ({error}): it takes root, or user namespaces")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        (was,) = struct.unpack("16xh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", was | _IFF_UP))


def _smoke(python: Python, dist: Path, packages: Path) -> bool:
    """Run all steps with one wheel, and print the outcome; return whether something failed."""
    minor = python.minor
    failures = 0
    for make in (_with_pip, _with_uv):
        with tempfile.TemporaryDirectory() as folder:
            environment = Environment(python, Path(folder))
            for step in (lambda it, make=make: make(it, python, dist, packages), *_STEPS):
                name = make.__name__ if step not in _STEPS else step.__name__
                try:
                    step(environment)
                except (AssertionError, OSError, subprocess.SubprocessError) as error:
                    failures += 1
                    print(f"CPython {minor}, {name.strip('_')}: failed: {error}")
                    if step not in _STEPS:
                        break
    print(f"CPython {minor}: {f'{failures} failed' if failures else 'ok'}")
    return failures > 0


def _sources(dist: Path, packages: Path) -> list[str]:
    return ["--no-index", "--find-links", str(dist), "--find-links", str(packages)]


def _with_pip(environment: Environment, python: Python, dist: Path, packages: Path) -> None:
    """Make the environment with venv; install the loop alone, then the server, with pip."""
    environment.run(python.in_place, "-m", "venv", environment.folder / "venv")
    install = ("-m", "pip", "install", "--quiet", *_sources(dist, packages))
    environment.python(*install, "threadlets")
    refused = environment.complete(environment.bin / "python", "-m", "threadlets", "--help")
    assert refused.returncode == 2, refused
    assert "threadlets[cli]" in refused.stderr, refused
    environment.python(*install, "threadlets[serve]")
    environment.python("-m", "pip", "check")


def _with_uv(environment: Environment, python: Python, dist: Path, packages: Path) -> None:
    """Make the environment and install the server with uv."""
    uv = [TOOLS / "uv", "--quiet", "--offline", "--no-cache", "--no-config"]
    environment.run(*uv, "venv", "--python", python.in_place, environment.folder / "venv")
    where = ("--python", environment.bin / "python")
    sources = _sources(dist, packages)
    environment.run(*uv, "pip", "install", *where, *sources, "threadlets[serve]")
    environment.run(*uv, "pip", "check", *where)


def nothing_else_is_here(environment: Environment) -> None:
    """The environment has no compiler, no Rust, no network, and imports the installed package."""
    for program in ("cc", "gcc", "cargo", "rustc"):
        environment.python("-c", f"import shutil; assert shutil.which('{program}') is None")
    answer = environment.python("-c", "import threadlets; print(threadlets.__file__)")
    assert Path(answer.strip()).is_relative_to(environment.folder), answer
    try:
        # A documentation address: no route leads there.
        socket.create_connection(("192.0.2.1", 80), timeout=1).close()
    except TimeoutError:
        raise AssertionError("there is a network") from None
    except OSError:
        return
    raise AssertionError("there is a network")


def programs_run(environment: Environment) -> None:
    """Programs with sockets, with functions that block, and with files run."""
    for name in ("echo", "calls", "sweep"):
        environment.program(name)


def exits_are_clean(environment: Environment) -> None:
    """A program ends with its own status and without output, whatever its threads do."""
    for _ in range(_N_EXITS):
        environment.program("exit_blocked", status=7)
        environment.program("exit_busy", status=7)


def commands_answer(environment: Environment) -> None:
    """The command is there under both of its names, and prints the installed version."""
    code = "from importlib.metadata import version; print(version('threadlets'))"
    version = environment.python("-c", code).strip()
    assert (
        environment.python("-c", "import threadlets; print(threadlets.__version__)").strip()
        == version
    )
    for command in (
        (environment.bin / "python", "-m", "threadlets"),
        (environment.bin / "threadlets",),
    ):
        assert "serve" in environment.run(*command, "--help")
        assert environment.run(*command, "--version").startswith(f"threadlets {version}")


def server_serves(environment: Environment) -> None:
    """`threadlets serve` answers on the native loop, and ends with status 0 on either signal."""
    for number in (signal.SIGTERM, signal.SIGINT):
        argv = (environment.bin / "threadlets", "serve", "--port", "0", "--app-dir", _PROGRAMS)
        with subprocess.Popen(
            environment.command(*argv, "application:app"),
            cwd=environment.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as server:
            try:
                assert server.stdout is not None
                printed = ""
                while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", printed)):
                    line = server.stdout.readline()
                    assert line, printed
                    printed += line
                client = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=_TIMEOUT_S)
                client.request("GET", "/")
                answer = client.getresponse()
                assert (200, b"threadlets") == (answer.status, answer.read())
                client.close()
                server.send_signal(number)
                rest, _ = server.communicate(timeout=_TIMEOUT_S)
                assert server.returncode == 0, f"{server.returncode}: {printed}{rest}"
            finally:
                server.kill()


_STEPS: tuple[Callable[[Environment], None], ...] = (
    nothing_else_is_here,
    programs_run,
    exits_are_clean,
    commands_answer,
    server_serves,
)

if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main()
